"""The methods, one a file; `config/methods` lists them."""
