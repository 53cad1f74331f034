"""What is put into a pretrained transformer so that it learns without changing its weights."""
