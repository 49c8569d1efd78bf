"""A picture under some controls, drawn anew whenever one of them moves.

In: controls and a function from their values to a picture and its words. Out: a widget. As in `widgets.py`, state is in
Python and the browser is sent bytes; the static picture is the one for the values at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.widgets import picture_html, show_widget

if TYPE_CHECKING:
    from ipywidgets import Widget

QUALITY = 84


@dataclass
class Panel:
    """Controls above a picture. `draw(**values)` gives the picture (height, width, 3), uint8, for what the controls say,
    and the words for those who do not see it. `meanwhile` is said above the picture where that takes longer than a moment.
    """

    controls: Mapping[str, Widget]
    draw: Callable[..., tuple[np.ndarray, str]]
    parts: dict[str, Any] = field(default_factory=dict)
    meanwhile: str = ""

    def picture(self) -> tuple[bytes, str]:
        """What the controls ask for now, as JPEG, and its words."""
        drawn, words = self.draw(**{name: control.value for name, control in self.controls.items()})
        return style.to_jpeg(drawn, quality=QUALITY), words

    def show(self) -> Panel:
        """Put it on the screen; readers of the page see the first picture."""
        import ipywidgets

        first, words = self.picture()
        image, said = ipywidgets.HTML(picture_html(first, alt=words)), ipywidgets.Label()
        self.parts = {"image": image, "label": said}

        def redraw(_change: dict[str, Any]) -> None:
            said.value, after = self.meanwhile, ""
            try:
                drawn, words = self.picture()
                image.value = picture_html(drawn, alt=words)
            except WanError as error:
                after = str(error)
            finally:
                said.value = after

        for control in self.controls.values():
            control.observe(redraw, names="value")
        row = ipywidgets.HBox(list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        show_widget(ipywidgets.VBox([row, said, image]), first, alt=words)
        return self
