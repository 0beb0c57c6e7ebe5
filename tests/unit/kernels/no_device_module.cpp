// A library that is no module of devices: for test_device_loader.
extern "C" int halfquad_test_no_module() { return 0; }
