"""What a scene becomes: a mesh with colours and texture, splats, views from all sides."""
