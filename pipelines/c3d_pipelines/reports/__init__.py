"""Reports of a run: its summary, advice on failures, and the HTML and Markdown pages."""
