"""A real web UI as a subprocess, for tests: started on a free loopback port with a data folder of its own.

The installation is named by the environment variable ``OMG_WEBUI``: a web UI v1.10 folder with its own Python
environment in ``venv/``; or by ``OMG_FORGE``, a Forge or reForge with its own, in which the same tests run instead. A
copy of its code runs, and nothing in it is changed, but that this extension's ``install.py`` runs in its environment,
as at every launch of the web UI.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
EXTENSION = "sd-webui-omg"
CHECKPOINTS = ("tiny-sdxl", "tiny-sdxl-v", "tiny-sd15")
START_SECONDS = 300
REQUEST_SECONDS = 600

FLAGS = ("--skip-torch-cuda-test", "--api", "--no-hashing", "--skip-version-check", "--skip-prepare-environment",
         "--disable-console-progressbars")
NO_DOWNLOADS = ("--do-not-download-clip", "--no-download-sd-model")
ON_CPU = ("--use-cpu", "all", "--no-half", *NO_DOWNLOADS)
FORGE_ON_CPU = ("--always-cpu", "--all-in-fp32", *NO_DOWNLOADS)
NEO_ON_CPU = ("--cpu", "--fp32-vae", "--fp32-text-enc")
# A setting that a request overrides is only restored if it stands in the file: hence some defaults. All checkpoints
# stay loaded, which saves time.
SETTINGS: dict[str, Any] = {
    "sd_checkpoints_limit": 10,
    "sd_model_checkpoint": CHECKPOINTS[0], "show_progress_type": "Approx cheap", "auto_launch_browser": "Disable",
    "samples_save": False, "grid_save": False, "return_grid": False, "batch_cond_uncond": True,
    "pad_cond_uncond": False, "pad_cond_uncond_v0": False, "randn_source": "GPU", "eta_noise_seed_delta": 0,
    "skip_early_cond": 0.0, "s_min_uncond_all": False, "token_merging_ratio": 0.0, "show_progress_every_n_steps": 10,
    "hypertile_enable_unet": False, "hypertile_max_tile_unet": 256, "hypertile_swap_size_unet": 3,
    "img2img_fix_steps": False, "img2img_extra_noise": 0.0, "return_mask": False, "return_mask_composite": False,
    "omg_rows_per_call": 0, "omg_full_budget_mb": 2048, "omg_device_budget_mb": 2048,
    "omg_host_budget_mb": 8192, "omg_ui_concepts": 4, "omg_save": [], "save_incomplete_images": False,
    "localization": "None", "refiner_switch_by_sample_steps": False, "hires_fix_refiner_pass": "second pass",
    "scaling_factor": 1.0,
    "VERSION_UID": "PY313",  # without which Forge Neo takes them for an old version's, and waits for Enter
}
UNKNOWN_TO_NEO = ("batch_cond_uncond", "pad_cond_uncond", "pad_cond_uncond_v0", "hypertile_enable_unet",
             "hypertile_max_tile_unet", "hypertile_swap_size_unet", "refiner_switch_by_sample_steps",
             "hires_fix_refiner_pass")
"""Settings"""
SCRIPTS = ("support.py", "doubles.py", "rewriters.py")
"""What runs inside the web UI, as scripts of a second extension."""
FORGE_SCRIPTS, REFORGE_SCRIPTS = ("forge_models.py",), ("reforge_models.py",)
OPENCLIP, FORGE_CONFIGS = "openclip", "forge"
"""Folders beside the checkpoints, with what each kind of web UI has to be told of them."""
STYLES = """name,prompt,negative_prompt
words,"oil painting, thick strokes",photo
around,"a poster of {prompt}, in a frame",
network,"watercolour <lora:sdxl-style:0.7>",
"""
NOT_COPIED = ("venv", ".git", "repositories", "models", "embeddings", "extensions", "outputs", "log", "tmp", "cache")
NEO_PROMPTS = {f"{tab}/{name}/value": "" for tab in ("txt2img", "img2img") for name in ("Prompt", "Negative Prompt")}
DEFAULTS: dict[str, Any] = {
    "prompt": "a photo of a man and a woman", "negative_prompt": "blurry", "width": 128, "height": 128, "steps": 8,
    "seed": 7, "cfg_scale": 5.0, "sampler_name": "Euler", "scheduler": "Automatic", "save_images": False,
}
PAGE = {"txt2img/Width/value": 128, "txt2img/Height/value": 128, "txt2img/CFG Scale/value": 5.0,
        "customscript/seed.py/txt2img/Seed/value": 7}
"""A small picture, as a page may begin with: to fill it in takes seconds. (Few steps would have a note shown.)"""


class ApiError(Exception):
    """The web UI answered with an error.

    Attributes:
        status: the HTTP status.
        detail: the answer's ``detail``, or its whole text.
    """

    def __init__(self, status: int, detail: str):
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Result:
    """What txt2img or img2img returned.

    Attributes:
        images: uint8 [H, W, 3] each.
        info: the web UI's info object (``infotexts``, ``all_seeds``, ...).
        comments: what the web UI shows under the picture besides its parameters.
    """

    images: list[np.ndarray]
    info: dict[str, Any]
    comments: list[str]

    @property
    def image(self) -> np.ndarray:
        """The first picture."""
        return self.images[0]


def find_installation() -> Path | None:
    """The web UI named by ``OMG_FORGE``, else by ``OMG_WEBUI``, or None if neither is set.

    Raises:
        FileNotFoundError: the variable names something that is no such web UI with its own environment.
    """
    variable = "OMG_FORGE" if forge_is_tested() else "OMG_WEBUI"
    named = os.environ.get(variable, "")
    if not named:
        return None
    root = Path(named).expanduser().absolute()
    parts = [root / "launch.py", python_of(root), *([root / "modules_forge"] if variable == "OMG_FORGE" else [])]
    for part in parts:
        if not part.exists():
            raise FileNotFoundError(f"{variable}={named}: there is no {part}")
    return root


def forge_is_tested() -> bool:
    """Whether the tests run in a Forge."""
    return bool(os.environ.get("OMG_FORGE"))


def reforge_is_tested() -> bool:
    """Whether the tests run in a reForge."""
    return forge_is_tested() and is_reforge(Path(os.environ["OMG_FORGE"]).expanduser())


def neo_is_tested() -> bool:
    """Whether the tests run in a Forge Neo."""
    return forge_is_tested() and is_neo(Path(os.environ["OMG_FORGE"]).expanduser())


def reads_oft() -> bool:
    """Whether what the tests run in knows networks that rotate weights."""
    return not forge_is_tested() or reforge_is_tested() or neo_is_tested()


def is_forge(installation: Path) -> bool:
    """Whether it is a Forge."""
    return (installation / "modules_forge").is_dir()


def is_reforge(installation: Path) -> bool:
    """Whether it is a reForge, which has no ``backend``."""
    return is_forge(installation) and not (installation / "backend").is_dir()


def is_neo(installation: Path) -> bool:
    """Whether it is a Forge Neo."""
    says = installation / "modules_forge" / "forge_version.py"
    return says.is_file() and '"neo"' in says.read_text()


def find_extension(name: str) -> Path | None:
    """A third-party extension, in ``OMG_EXTENSIONS`` or the cache folder; None if it is not there."""
    folder = Path(os.environ.get("OMG_EXTENSIONS") or "~/.cache/omg/extensions").expanduser() / name
    return folder.absolute() if folder.is_dir() else None


def python_of(installation: Path) -> Path:
    """The web UI's own Python."""
    windows = installation / "venv" / "Scripts" / "python.exe"
    return windows if windows.exists() else installation / "venv" / "bin" / "python"


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would lead the web UI's Python astray, and without network.

    One thread: the models are too small for more, and threads that wait for each other crawl on a busy machine.
    """
    unwanted = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COMMANDLINE_ARGS", "SD_WEBUI_RESTARTING")
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**env, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1", **extra}


def write_checkpoints(installation: Path, folder: Path) -> None:
    """Run ``checkpoints.py`` with the web UI's Python.

    Raises:
        RuntimeError: with what it printed.
    """
    run([python_of(installation), "-m", "tests.webui.checkpoints", installation, folder], clean_environment(),
        cwd=REPOSITORY)


def install_extension(installation: Path, data_dir: Path) -> None:
    """Link this repository as an extension and run its installer as the web UI's launcher does.

    Raises:
        RuntimeError: with what the installer printed.
    """
    link = data_dir / "extensions" / EXTENSION
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(REPOSITORY, target_is_directory=True)
    installer = link / "install.py"
    if installer.exists():
        run([python_of(installation), installer], clean_environment(PYTHONPATH=str(installation)), cwd=installation)


def copy_code(installation: Path, folder: Path) -> None:
    """Copy the web UI's own few megabytes: not its environment, its models and what its user has added.

    A running web UI writes beside its code. And Gradio serves no file, so no script to the browser, from below a folder
    whose name begins with a dot, which the installation may lie in.
    """
    folder.mkdir()
    for entry in installation.iterdir():
        if entry.name not in NOT_COPIED:
            (shutil.copytree if entry.is_dir() else shutil.copyfile)(entry, folder / entry.name)
    (folder / "repositories").symlink_to(installation / "repositories", target_is_directory=True)


def run(command: list[Path | str], env: dict[str, str], cwd: Path | None = None) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    words = [str(part) for part in command]
    done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def make_data_dir(folder: Path, checkpoints: Path) -> None:
    """A web UI data folder with the tiny checkpoints, ``support.py``, ``doubles.py`` and settings."""
    models, networks = folder / "models" / "Stable-diffusion", folder / "models" / "Lora"
    for kind in (models, networks, folder / "tmp"):  # Forge Neo does not make the last, which its page writes to
        kind.mkdir(parents=True, exist_ok=True)
    for name in CHECKPOINTS:
        for suffix in (".safetensors", ".yaml"):
            (models / (name + suffix)).symlink_to(checkpoints / (name + suffix))
    scripts = folder / "extensions" / "omg-test-support" / "scripts"
    scripts.mkdir(parents=True)
    is_for_forge = (checkpoints / FORGE_CONFIGS).is_dir()
    is_for_reforge = (checkpoints / FORGE_CONFIGS / "vae.json").is_file()
    for name in (*SCRIPTS, *(REFORGE_SCRIPTS if is_for_reforge else FORGE_SCRIPTS if is_for_forge else ())):
        (scripts / name).symlink_to(Path(__file__).with_name(name))
    configs = FORGE_CONFIGS if is_for_forge else OPENCLIP
    (folder / configs).symlink_to(checkpoints / configs, target_is_directory=True)
    words = json.loads((REPOSITORY / "docs" / "strings.json").read_text())
    (scripts.parent / "localizations").mkdir()
    (scripts.parent / "localizations" / "omg-test-loud.json").write_text(
        json.dumps({text: f"«{text}»" for text in words}))
    (folder / "styles.csv").write_text(STYLES)
    (folder / "config.json").write_text(json.dumps(SETTINGS))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two pictures in grey levels."""
    return float(np.abs(first.astype(float) - second).mean())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class WebUI:
    """A running web UI. Use it as a context manager, or call :meth:`stop`.

    Args:
        installation: see :func:`find_installation`.
        data_dir: made by :func:`make_data_dir`.
        flags: command-line flags besides :data:`FLAGS`.
        half: weights in bfloat16 under autocast, as near as a CPU comes to what most users have.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """

    def __init__(self, installation: Path, data_dir: Path, flags: tuple[str, ...] = (), half: bool = False):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.data_dir = data_dir
        self._log = data_dir / "log.txt"
        self._checkpoint, self._others = "", dict[tuple[str, str], np.ndarray]()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.is_forge, self.is_reforge = is_forge(installation), is_reforge(installation)
        self.is_neo = is_neo(installation)
        on_cpu = (NEO_ON_CPU if self.is_neo else FORGE_ON_CPU if self.is_forge else
                  (*ON_CPU, "--precision", "autocast" if half else "full"))
        command = [str(python_of(installation)), "launch.py", *FLAGS, *on_cpu, *flags, "--data-dir", str(data_dir),
                   "--port", str(port)]
        self._code = data_dir / "webui"
        copy_code(installation, self._code)
        told = {"OMG_TEST_FORGE": FORGE_CONFIGS} if self.is_forge else {"OMG_TEST_OPENCLIP": OPENCLIP}
        if self.is_neo:
            self._forget_settings(UNKNOWN_TO_NEO)
            # as after a first start, in which its arrow skips what has no value yet
            kept = data_dir / "ui-config.json"
            kept.write_text(json.dumps({**NEO_PROMPTS, **(json.loads(kept.read_text()) if kept.exists() else {})}))
        env = clean_environment(OMG_TEST_HALF="1" if half else "",
                                **{name: str(data_dir / configs) for name, configs in told.items()})
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._code, env=env, stdout=log, stderr=subprocess.STDOUT,
                                             stdin=subprocess.DEVNULL)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> WebUI:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _forget_settings(self, names: Collection[str]) -> None:
        """They would be there though the web UI does not know them."""
        file = self.data_dir / "config.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({name: value for name, value in settings.items() if name not in names}))

    def _wait_until_ready(self) -> None:
        """Wait for what it prints last.

        A request while it still adds its API's middleware would make it fail. And the first checkpoint is loaded in a
        thread of its own: a switch to another at that time fails, which the web UI does not tell. Forge loads one when
        a picture asks for it.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the web UI ended with status {self._process.returncode}:\n{self.log()[-4000:]}")
            log = self.log()
            # without a page it prints this before it listens
            if "Startup time: " in log and (self.is_forge or "Model loaded in " in log) and self._listens():
                return
            time.sleep(0.25)
        raise RuntimeError(f"the web UI did not answer within {START_SECONDS} s:\n{self.log()[-4000:]}")

    def _listens(self) -> bool:
        address = urllib.parse.urlsplit(self.url)
        try:
            socket.create_connection((address.hostname or "", address.port or 0), timeout=1).close()
        except OSError:
            return False
        return True

    def request(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """One HTTP request; JSON in and out.

        Raises:
            ApiError: for any status but 2xx.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise ApiError(error.code, _detail(text)) from None

    def get(self, path: str) -> Any:
        return self.request(path)

    def post(self, path: str, body: Any = None) -> Any:
        return self.request(path, {} if body is None else body)

    def txt2img(self, **payload: Any) -> Result:
        """One txt2img request; what is not given comes from :data:`DEFAULTS`.

        Raises:
            ApiError: the web UI refused it.
        """
        return self.generate({**DEFAULTS, **payload})

    def other(self, **payload: Any) -> np.ndarray:
        """What :meth:`txt2img` draws, but drawn once a session: a picture that is only to differ from others."""
        key = self._checkpoint, json.dumps(payload, sort_keys=True)
        if key not in self._others:
            self._others[key] = self.txt2img(**payload).image
        return self._others[key]

    def img2img(self, picture: np.ndarray, **payload: Any) -> Result:
        """One img2img request over a picture, or several [B, H, W, 3]; what is not given comes from :data:`DEFAULTS`.

        Raises:
            ApiError: the web UI refused it.
        """
        pictures = [encode(each) for each in (picture if picture.ndim == 4 else picture[None])]
        with self.seeded():
            return self.generate({**DEFAULTS, "init_images": pictures, **payload}, "img2img")

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Within the block img2img is repeatable, as txt2img is: the web UI does not seed its autoencoder."""
        self.post("/omg-tests/seeds", True)
        try:
            yield
        finally:
            self.post("/omg-tests/seeds", False)

    def generate(self, payload: dict[str, Any], tab: str = "txt2img") -> Result:
        """One request as it stands.

        Raises:
            ApiError: the web UI refused it.
        """
        if self.is_forge and not self.is_reforge and payload.get("enable_hr"):  # the page's values, which its API lacks
            payload = {"hr_additional_modules": ["Use same choices"], "hr_cfg": payload["cfg_scale"], **payload}
        if self.is_neo:
            payload = self._in_neo(payload)
        answer = self.post(f"/sdapi/v1/{tab}", payload)
        pictures = [decode(text) for text in answer["images"]]
        return Result(pictures, json.loads(answer["info"]), self.get("/omg-tests/comments"))

    def _in_neo(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Without the settings that it lacks; nor does it have an upscaler but those that need a file, and none."""
        changed = {**payload, **({"hr_upscaler": "None"} if "hr_upscaler" in payload else {})}
        if "override_settings" in payload:
            known = self.options()
            changed["override_settings"] = {name: value for name, value in payload["override_settings"].items()
                                            if name in known}
        return changed

    def encode(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """A prompt as SDXL's UNet gets it: context [tokens, width] and pooled vector with sizes [width]."""
        answer = self.get("/omg-tests/encode?" + urllib.parse.urlencode({"prompt": prompt}))
        return np.array(answer["crossattn"]), np.array(answer["vector"])

    def patches(self) -> dict[str, int]:
        """Hooks and patched modules of the model: see ``support.py``."""
        return dict(self.get("/omg-tests/patches"))

    def tensors(self) -> dict[str, int]:
        """Number and bytes of the web UI's live tensors."""
        return dict(self.get("/omg-tests/tensors"))

    def denoiser_calls(self) -> int:
        """How often samplers have asked for a prediction since the web UI started."""
        return int(self.get("/omg-tests/denoiser-calls"))

    def doubles(self, *names: str) -> None:
        """Switch these stand-ins on and all others off: see ``doubles.py``."""
        self.post("/omg-tests/doubles", list(names))

    def doubles_saw(self) -> dict[str, Any]:
        """What the stand-ins saw since they were switched."""
        return dict(self.get("/omg-tests/doubles"))

    def served_file(self, name: str) -> Path:
        """A file that the page asks for, relative to the running code unless its path is absolute."""
        return self._code / name

    def interrupt(self) -> None:
        self.post("/sdapi/v1/interrupt")

    def skip(self) -> None:
        self.post("/sdapi/v1/skip")

    def stop_after_current(self) -> None:
        """As the page's Interrupt does, if the settings say "after current"."""
        self.post("/omg-tests/stop-after-current")

    def progress(self) -> dict[str, Any]:
        """The state of the picture in the making, without a preview."""
        return dict(self.get("/sdapi/v1/progress?skip_current_image=true"))

    def options(self, **values: Any) -> dict[str, Any]:
        """Set the given settings; returns all of them."""
        if values:
            self.post("/sdapi/v1/options", values)
        return dict(self.get("/sdapi/v1/options"))

    def checkpoints(self) -> list[str]:
        """The names of all that it has: :data:`CHECKPOINTS`, and what else lies in its data folder."""
        return [model["model_name"] for model in self.get("/sdapi/v1/sd-models")]

    def set_checkpoint(self, name: str) -> None:
        """Load one of :meth:`checkpoints`.

        Raises:
            RuntimeError: the web UI went on with another, which its API does not tell; with the end of its log.
        """
        self.options(sd_model_checkpoint=name)
        self._checkpoint = name
        loaded = self.get("/omg-tests/checkpoint")
        if loaded != name:
            raise RuntimeError(f"asked for the checkpoint {name}, {loaded} is loaded:\n{self.log()[-4000:]}")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def log(self) -> str:
        """Everything that the web UI has printed."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _detail(text: str) -> str:
    """The readable part of an error answer."""
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("detail") or answer.get("errors") or text) if isinstance(answer, dict) else text


def decode(text: str) -> np.ndarray:
    """A picture of the API's, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def encode(picture: np.ndarray) -> str:
    """A picture, or a mask [H, W], for the API."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
