"""The captioning engine: images in, scored captions out; a library without web or queue framework."""
