"""A picture for a model that cannot see: said so at once, on every engine."""

import base64
import io

from PIL import Image


def test_a_picture_is_refused_and_nothing_made_up(tasks) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    picture = {"data": base64.b64encode(buffer.getvalue()).decode()}
    kind, message = tasks.failure("image.analyze", image=picture)
    assert kind == "BackendRejected"
    assert any(word in message for word in ("cannot see", "multimodal", "image"))
