"""Views of a classification: timeline, HTML page, thumbnails, tables."""
