"""What people read: pictures, plots, the decision in plain words and the page."""
