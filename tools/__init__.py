"""What makes the book: executing its notebooks, stamping its address, building its pages."""
