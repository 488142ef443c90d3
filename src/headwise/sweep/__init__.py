"""Many runs compared: the space they come from, the search through it, and what is told of them."""
