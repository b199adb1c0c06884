"""What all tests share: the marks `unit` and `fabric`, and the device that fabric tests run on."""

pytest_plugins = ["softroce.plugin"]
