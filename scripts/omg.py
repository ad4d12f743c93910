"""The AlwaysOn script: hands the web UI's calls to :mod:`omg_ext.webui`."""

from typing import Any

from modules import script_callbacks, scripts

from omg_ext.webui import (
    api,
    concepts_page,
    detectors_page,
    few_steps_page,
    preview_page,
    process,
    prompts,
    rest,
    settings,
    ui,
    xyz,
)
from omg_ext.webui.preview import Preview


class OMGScript(scripts.Script):
    """OMG in one of the tabs, txt2img or img2img, and in its API."""

    def __init__(self) -> None:
        super().__init__()
        self.preview = Preview()
        # another checkpoint wants its memory
        script_callbacks.on_model_loaded(lambda _: self.preview.drop(), name="omg-preview")
        preview_page.watch(self)
        concepts_page.watch(self)
        few_steps_page.watch(self)

    def title(self) -> str:
        return "OMG"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def elem_id(self, item_id: str) -> str:
        """As the host made it for a script of one tab; those of the other tab are others."""
        return f"script_{'img2img_' if self.is_img2img else ''}omg_{item_id}"

    def ui(self, is_img2img: bool) -> list[Any]:
        return ui.build(self, is_img2img)

    def before_process(self, p: Any, *args: Any) -> None:
        if process.concerns(self, p):
            process.start(p)
            prompts.remember(p)

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if process.concerns(self, p):
            process.before_batch(p, args)

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if process.concerns(self, p):
            process.before_sampling(p, args, self.preview)

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        process.after_batch(p)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        if process.concerns(self, p):
            process.postprocess(p, processed)


settings.register()
detectors_page.register()
script_callbacks.on_before_ui(xyz.register, name="omg")
script_callbacks.on_app_started(lambda _, app: api.read_bodies(app), name="omg")
script_callbacks.on_app_started(lambda _, app: rest.register(app), name="omg-rest")
