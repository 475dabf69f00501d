"""Certificate authority, requests, signing; bytes in, bytes out."""
