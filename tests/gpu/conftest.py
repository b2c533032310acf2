"""What these tests share with those of text-to-3D."""

from tests.text_to_3d.conftest import make_module, pipeline_folder

__all__ = ["make_module", "pipeline_folder"]
