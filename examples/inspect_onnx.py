"""Inspect images with an exported model; needs onnxruntime, numpy and pillow, and nothing else.

python inspect_onnx.py part.onnx image.png ...

Run it with files that you exported yourself: ONNX Runtime reads whatever other files an ONNX file names, and an
export of goodparts names none.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
sizes = {item.name: item.shape[1:3] for item in session.get_inputs()}
height, width = sizes["image"]
threshold = float(about["threshold"])
if about["framing"] == "tiles":
    sys.exit(f"{sys.argv[1]}: looks at images in tiles; docs/export.md says how their distances are merged")


def inputs_of(image):
    """The working image and, letterboxed, which cells of the grid look at the image: those with their centre in it."""
    h, w = height, width  # of the resized image
    if about["framing"] == "letterbox":
        scale = min(height / image.height, width / image.width)
        h, w = round(image.height * scale), round(image.width * scale)
    elif about["framing"] == "crop":
        h, w = (int(about["resize_size"]) * side // min(image.size) for side in (image.height, image.width))
    top, left = -round((h - height) / 2), -round((w - width) / 2)
    canvas = Image.new("RGB", (width, height), "rgb(" + (about["padding"] or "0,0,0") + ")")
    for size in ((w, image.height), (w, h)):  # the width first, whatever the version of Pillow
        image = image.resize(size, Image.Resampling.BILINEAR)
    canvas.paste(image, (left, top))
    inputs = {"image": np.asarray(canvas)[None]}
    if "valid" in sizes:
        y, x = (
            (np.arange(cells) + 0.5) * side / cells
            for cells, side in zip(sizes["valid"], sizes["image"], strict=True)
        )
        rows, columns = np.abs(y - top - h / 2) <= h / 2, np.abs(x - left - w / 2) <= w / 2
        inputs["valid"] = np.outer(rows, columns)[None].astype(np.float32)
    return inputs


for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey: the upper byte
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    (score,) = session.run(["score"], inputs_of(image.convert("RGB")))[0]
    print(f"{'BAD' if score > threshold else 'GOOD'}  {score / threshold:.3f}  {path}")
