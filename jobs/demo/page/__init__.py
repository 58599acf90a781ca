"""The demo's page: one HTML file with videos, strips of pictures, questions, answers and their moments."""
