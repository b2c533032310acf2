"""Text-to-3D by score distillation: a scene, cameras that see it, a frozen teacher that judges the views."""
