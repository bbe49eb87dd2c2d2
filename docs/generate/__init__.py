"""Pages made of the package's own data, so that nothing is written twice: a file for each kind of page."""
