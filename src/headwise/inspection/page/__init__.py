"""The attention page, one self-contained HTML file."""
