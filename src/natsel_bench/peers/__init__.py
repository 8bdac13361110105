"""natsel beside other libraries that remove structures: one case, judged by none of them."""
