"""What people look at: timelines, HTML pages, thumbnails, tables."""
