/* A driver without a GPU, for tests: memory is the host's, and a launch is only told of. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
static int number(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

Status cuInit(unsigned flags) { return flags != 0; }
Status cuDriverGetVersion(int *version) { return *version = 13000, 0; }
Status cuDeviceGetCount(int *count) { return *count = number("FAKE_GPUS", 1), 0; }
Status cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
Status cuDeviceGetName(char *name, int size, int device) {
  return snprintf(name, size, "Fake GPU %d", device), 0;
}
Status cuDeviceGetAttribute(int *value, int attribute, int device) {
  int compute = number("FAKE_COMPUTE", 90) - 10 * device;
  if (attribute != 75 && attribute != 76) return 1;
  return *value = attribute == 75 ? compute / 10 : compute % 10, 0;
}
Status cuDeviceTotalMem_v2(size_t *size, int device) {
  return *size = (size_t)number("FAKE_GIBIBYTES", 80) << 30, device < 0;
}
Status cuDevicePrimaryCtxRetain(void **context, int device) { return *context = malloc(1 + device), 0; }
Status cuCtxSetCurrent(void *context) { return context == NULL; }
Status cuGetErrorString(int status, const char **text) {
  return *text = status == 209 ? "no kernel image is available" : "it failed", 0;
}
Status cuModuleLoadData(void **module, const void *image) {
  if (getenv("FAKE_REFUSES")) return 209;
  return *module = malloc(1), memcmp(image, "\x50\xed\x55\xba", 4) != 0;
}
Status cuModuleGetFunction(void **function, void *module, const char *name) {
  return *function = strdup(name), module == NULL;
}
Status cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (getenv("FAKE_LIMIT") && size > (size_t)number("FAKE_LIMIT", 0)) return 2;
  return *address = (uint64_t)calloc(1, size), 0;
}
Status cuMemFree_v2(uint64_t address) { return free((void *)address), 0; }
Status cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
  return memcpy((void *)target, source, size), 0;
}
Status cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
  return memcpy(target, (void *)source, size), 0;
}
Status cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) {
  return memcpy((void *)target, (void *)source, size), 0;
}
Status cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned tall,
                      unsigned deep, unsigned shared, void *stream, void **arguments, void **extra) {
  if (z != 1 || tall != 1 || deep != 1 || shared || stream || extra) return 1;
  /* Arguments are addresses first; the first one is always memory that can be read. */
  volatile char first = **(char **)arguments[0];
  (void)first;
  printf("launch %s %u %u %u\n", (char *)function, x, y, threads);
  return 0;
}
