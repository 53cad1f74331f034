"""What is put into a pretrained network so that it learns while its weights stay as they are."""
