"""What all tests share: the marks `unit` and `fabric`, and the fabric that fabric tests run on."""

pytest_plugins = ["fabrics.plugin"]
