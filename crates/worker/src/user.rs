//! Users and groups of an image, from its `/etc/passwd` and `/etc/group`.
