"""Calls to a web UI's API, and what their failures mean."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter

from ..errors import OMGError
from ..jobs.draw import WorkerDiedError
from ..request import Request

AUTH = "OMG_WEBUI_AUTH"
"""The environment variable that holds ``user:password`` for web UIs that were started with ``--api-auth``."""
FIELD = "webui"
"""Which errors name that are a web UI's and no job's."""
Auth = tuple[str, str]
T = TypeVar("T")

_CONNECT_SECONDS = 10
_LOOK_SECONDS = 60  # it answers while it draws, but hardly while it loads a checkpoint
# a peer that is gone without a word is noticed after this long plus as many probes
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 30, 10, 4
_OMG_TEXT = re.compile(r"OMG: ([\w.\[\]]+): (.*)", re.DOTALL)
_FIELDS = {"sampler_name": "sampler", "override_settings": "checkpoint"}


class WebUIError(OMGError):
    """No job can be drawn at this web UI until somebody mends something."""

    def __init__(self, message: str):
        super().__init__(FIELD, message)


def auth_from(environment: Mapping[str, str]) -> Auth | None:
    """User and password as the environment names them; None if it does not.

    Raises:
        OMGError: what it names is no ``user:password``.
    """
    text = environment.get(AUTH, "")
    user, colon, password = text.partition(":")
    if text and not (user and colon):
        raise OMGError(AUTH, "expected user:password, as the web UI was given it with --api-auth")
    return (user, password) if text else None


class Connection:
    """One web UI's API.

    Args:
        url: of the web UI, as the browser has it. User and password may stand in it; they go before ``auth``.
        auth: user and password.
        timeout: of a picture, in seconds; None waits for as long as the web UI is there.

    Attributes:
        name: the URL without user and password.

    Raises:
        OMGError: this is no URL of a web UI.
    """

    def __init__(self, url: str, auth: Auth | None = None, timeout: float | None = None):
        parts = _split(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._timeout = timeout
        self._session = requests.Session()
        self._session.auth = auth if parts.username is None else (unquote(parts.username),
                                                                  unquote(parts.password or ""))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Probing())

    def get(self, path: str, kind: type[T]) -> T:
        """What a route answers.

        Args:
            kind: what it must be, for msgspec.

        Raises:
            WebUIError: this is no web UI with an API, or it wants another password.
            OMGError: it reports an error.
            WorkerDiedError: it does not answer.
        """
        return self._read(self._call("GET", path, _LOOK_SECONDS), kind)

    def find(self, path: str, kind: type[T]) -> T | None:
        """The same; None if there is no such route."""
        response = self._call("GET", path, _LOOK_SECONDS)
        return None if response.status_code == 404 else self._read(response, kind)

    def post(self, path: str, body: dict[str, Any], kind: type[T]) -> T:
        """The same for a picture, which may take its time."""
        return self._read(self._call("POST", path, self._timeout, body), kind)

    def _call(self, method: str, path: str, timeout: float | None,
              body: dict[str, Any] | None = None) -> requests.Response:
        try:
            # by a redirection a POST would become a GET
            return self._session.request(method, self.name + path, json=body, timeout=(_CONNECT_SECONDS, timeout),
                                         allow_redirects=False)
        except requests.RequestException as error:
            raise WorkerDiedError(f"{self.name}: {_reason(error)}") from None
        finally:
            # one that is kept may be closed by the web UI in the moment of the next call, as if it had died
            self._session.close()

    def _read(self, response: requests.Response, kind: type[T]) -> T:
        if response.status_code != 200:
            raise self._fault(response)
        if "json" not in response.headers.get("Content-Type", ""):
            raise WebUIError(f"{self.name} answers, but not as a web UI does")
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.ValidationError as error:
            raise WebUIError(f"{self.name} answers, but not as a web UI does ({error})") from None
        except msgspec.DecodeError as error:
            raise WorkerDiedError(f"{self.name}: its answer breaks off ({error})") from None

    def _fault(self, response: requests.Response) -> Exception:
        status = response.status_code
        if status >= 500:
            return self._failure(response)
        if status in (401, 403):
            return WebUIError(f"{self.name} {self._wants()}")
        if status in (404, 405):
            return WebUIError(f"{self.name} is no web UI, or it was started without --api")
        if status < 400:
            return WebUIError(f"{self.name} sends on to {response.headers.get('Location')}; give that address")
        return _refusal(_json(response), f"{self.name}: status {status}: {response.text[:500]}")

    def _wants(self) -> str:
        if self._session.auth is None:
            return f"wants a user and a password; set {AUTH}=user:password, as it was given them with --api-auth"
        return f"does not take this user and password; see {AUTH}, or what stands in the URL"

    def _failure(self, response: requests.Response) -> Exception:
        answer = _json(response)
        if response.status_code == 500 and isinstance(answer, dict) and "error" in answer:
            said = answer.get("errors") or answer.get("detail") or ""
            text = f"{self.name}: {answer['error']}{f': {said}' if said else ''}"
            # after it no call to the graphics card succeeds in that process
            return WorkerDiedError(text) if "CUDA error" in text else OMGError(FIELD, text)
        return WorkerDiedError(f"{self.name}: status {response.status_code}: {response.reason}")


class _Probing(HTTPAdapter):
    """Asks from time to time whether the other end is still there, however long it takes over its answer."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_options(), **kwargs)


def _options() -> list[tuple[int, int, int]]:
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # macOS
    # what was sent and nobody took counts for the last, in milliseconds
    wanted = {idle: _IDLE_SECONDS, "TCP_KEEPINTVL": _PROBE_SECONDS, "TCP_KEEPCNT": _PROBES,
              "TCP_USER_TIMEOUT": 1000 * (_IDLE_SECONDS + _PROBE_SECONDS * _PROBES)}
    return [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            *((socket.IPPROTO_TCP, getattr(socket, name), value)
              for name, value in wanted.items() if hasattr(socket, name))]


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:  # the text is not repeated: there may be a password in it
        raise WebUIError("this is no URL of a web UI; expected something like http://127.0.0.1:7860")
    return parts


def _reason(error: requests.RequestException) -> str:
    """Without what requests and urllib3 say around it."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", None) or inner)


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _refusal(answer: Any, otherwise: str) -> OMGError:
    """What the web UI, or OMG in it, says against a job; its fields are named as the job has them.

    Args:
        otherwise: the text if it says nothing that can be read.
    """
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # FastAPI's
        named = str((detail[0].get("loc") or [FIELD])[-1])
        return OMGError(_FIELDS.get(named, named), str(detail[0].get("msg")))
    ours = _OMG_TEXT.fullmatch(str(detail))
    if ours is None:
        return OMGError(FIELD, str(detail) if detail else otherwise)
    is_of_request = re.split(r"\W", ours[1])[0] in Request.__struct_fields__
    return OMGError(f"request.{ours[1]}" if is_of_request else ours[1], ours[2])
