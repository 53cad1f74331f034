"""What answers at inference in place of the linear heads, one file for each kind; and what is known of classes."""
