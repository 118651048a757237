"""Images with boxes: Pascal VOC and COCO."""
