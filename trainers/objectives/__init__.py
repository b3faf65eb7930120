"""The terms of a loss and how token losses become one number."""
