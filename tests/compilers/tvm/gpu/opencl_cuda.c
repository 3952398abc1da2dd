/* libcuda.so.1 for machines without a GPU, for tests: it answers the driver's queries as one H100 would, and
   runs the kernels through OpenCL.

   Machine code cannot run here. Instead `cuModuleLoadData` takes the same kernels as OpenCL C from
   $OPENCL_CUDA_KERNELS/<hash>.cl, where <hash> is the FNV-1a hash of the fatbin it was given; code for which
   there is no such file is refused. Found by the loader like the real library: through LD_LIBRARY_PATH. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef void *Handle;
enum { NOT_FOUND = 500, NO_IMAGE = 209, NO_MEMORY = 2, INVALID = 1, MOST_BUFFERS = 65536 };

/* The few functions of OpenCL 1.2 that are needed (https://registry.khronos.org/OpenCL). */
int clGetPlatformIDs(unsigned, Handle *, unsigned *);
int clGetDeviceIDs(Handle, uint64_t, unsigned, Handle *, unsigned *);
Handle clCreateContext(const intptr_t *, unsigned, const Handle *, Handle, Handle, int *);
Handle clCreateCommandQueue(Handle, Handle, uint64_t, int *);
Handle clCreateProgramWithSource(Handle, unsigned, const char **, const size_t *, int *);
int clBuildProgram(Handle, unsigned, const Handle *, const char *, Handle, Handle);
Handle clCreateKernel(Handle, const char *, int *);
int clGetKernelInfo(Handle, unsigned, size_t, void *, size_t *);
int clGetKernelArgInfo(Handle, unsigned, unsigned, size_t, void *, size_t *);
int clSetKernelArg(Handle, unsigned, size_t, const void *);
Handle clCreateBuffer(Handle, uint64_t, size_t, void *, int *);
int clReleaseMemObject(Handle);
int clEnqueueNDRangeKernel(Handle, Handle, unsigned, const size_t *, const size_t *, const size_t *, unsigned,
                           Handle, Handle);
int clEnqueueReadBuffer(Handle, Handle, unsigned, size_t, size_t, void *, unsigned, Handle, Handle);
int clEnqueueWriteBuffer(Handle, Handle, unsigned, size_t, size_t, const void *, unsigned, Handle, Handle);
int clEnqueueCopyBuffer(Handle, Handle, Handle, size_t, size_t, size_t, unsigned, Handle, Handle);

static struct { uint64_t address; size_t size; Handle buffer; } buffers[MOST_BUFFERS];
static uint64_t next_address = 1ull << 32;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Handle device, context, queue;

static long number(const char *name, long otherwise) { return getenv(name) ? atol(getenv(name)) : otherwise; }

static int find(uint64_t address, size_t *offset) {
  for (int n = 0; n < MOST_BUFFERS; n++)
    if (buffers[n].buffer && address >= buffers[n].address && address < buffers[n].address + buffers[n].size)
      return *offset = address - buffers[n].address, n;
  return -1;
}

Status cuInit(unsigned flags) {
  Handle platforms[8];
  unsigned count = 0, found = 0;
  if (flags || device) return flags != 0;
  if (clGetPlatformIDs(8, platforms, &count)) return 100;
  for (unsigned n = 0; n < count && n < 8 && !found; n++)
    if (clGetDeviceIDs(platforms[n], 0xFFFFFFFF, 1, &device, &found)) found = 0;
  if (!found) return device = NULL, 100;
  int status = 0;
  context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
  if (!status) queue = clCreateCommandQueue(context, device, 0, &status);
  return status;
}
Status cuDriverGetVersion(int *version) { return *version = 13000, 0; }
Status cuDeviceGetCount(int *count) { return *count = 1, 0; }
Status cuDeviceGet(int *ordinal, int asked) { return *ordinal = asked, 0; }
Status cuDeviceGetName(char *name, int size, int ordinal) {
  return snprintf(name, size, "OpenCL in the place of an H100"), ordinal;
}
Status cuDeviceGetAttribute(int *value, int attribute, int ordinal) {
  if (attribute != 75 && attribute != 76) return INVALID;
  return *value = attribute == 75 ? 9 : 0, ordinal;
}
Status cuDeviceTotalMem_v2(size_t *size, int ordinal) {
  return *size = (size_t)number("OPENCL_CUDA_MIB", 80 << 10) << 20, ordinal;
}
Status cuDevicePrimaryCtxRetain(Handle *given, int ordinal) { return *given = context, ordinal; }
Status cuCtxSetCurrent(Handle given) { return given != context; }
Status cuGetErrorString(int status, const char **text) {
  return *text = status == NO_IMAGE ? "no kernel image is available" : "it failed", 0;
}

Status cuModuleLoadData(Handle *module, const unsigned char *image) {
  uint16_t header;
  uint64_t size, hash = 0xcbf29ce484222325ull;
  char path[4096];
  if (memcmp(image, "\x50\xed\x55\xba", 4)) return NO_IMAGE;
  memcpy(&header, image + 6, 2);
  memcpy(&size, image + 8, 8);
  for (uint64_t n = 0; n < header + size; n++) hash = (hash ^ image[n]) * 0x100000001b3ull;
  const char *folder = getenv("OPENCL_CUDA_KERNELS");
  snprintf(path, sizeof path, "%s/%016llx.cl", folder ? folder : ".", (unsigned long long)hash);
  FILE *file = fopen(path, "rb");
  if (!file) return NO_IMAGE;
  char *text = calloc(1, 16 << 20);
  size_t length = fread(text, 1, (16 << 20) - 1, file);
  fclose(file);
  int status = 0;
  *module = clCreateProgramWithSource(context, 1, (const char **)&text, &length, &status);
  if (!status) status = clBuildProgram(*module, 0, NULL, "-cl-std=CL1.2 -cl-kernel-arg-info", NULL, NULL);
  return free(text), status ? NO_IMAGE : 0;
}
Status cuModuleGetFunction(Handle *function, Handle module, const char *name) {
  int status = 0;
  *function = clCreateKernel(module, name, &status);
  return status ? NOT_FOUND : 0;
}

Status cuMemAlloc_v2(uint64_t *address, size_t size) {
  int status = 0, n = 0;
  pthread_mutex_lock(&lock);
  while (n < MOST_BUFFERS && buffers[n].buffer) n++;
  if (n < MOST_BUFFERS) {
    buffers[n].buffer = clCreateBuffer(context, 1, size, NULL, &status);
    buffers[n].address = *address = next_address;
    buffers[n].size = size;
    next_address += (size + 0x1ffff) & ~0xffffull;
  }
  pthread_mutex_unlock(&lock);
  return n == MOST_BUFFERS || status ? NO_MEMORY : 0;
}
Status cuMemFree_v2(uint64_t address) {
  size_t offset = 0;
  pthread_mutex_lock(&lock);
  int n = find(address, &offset), known = n >= 0 && !offset;
  if (known) clReleaseMemObject(buffers[n].buffer), buffers[n].buffer = NULL;
  pthread_mutex_unlock(&lock);
  return !known;
}
Status cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
  size_t offset = 0;
  int n = find(target, &offset);
  if (n < 0) return INVALID;
  return clEnqueueWriteBuffer(queue, buffers[n].buffer, 1, offset, size, source, 0, NULL, NULL);
}
Status cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
  size_t offset = 0;
  int n = find(source, &offset);
  if (n < 0) return INVALID;
  return clEnqueueReadBuffer(queue, buffers[n].buffer, 1, offset, size, target, 0, NULL, NULL);
}
Status cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) {
  size_t to = 0, from = 0;
  int a = find(source, &from), b = find(target, &to);
  if (a < 0 || b < 0) return INVALID;
  return clEnqueueCopyBuffer(queue, buffers[a].buffer, buffers[b].buffer, from, to, size, 0, NULL, NULL);
}

Status cuLaunchKernel(Handle kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned tall,
                      unsigned deep, unsigned shared, void *stream, void **arguments, void **extra) {
  unsigned count = 0, space = 0;
  if (z != 1 || tall != 1 || deep != 1 || shared || stream || extra) return INVALID;
  if (clGetKernelInfo(kernel, 0x1191, sizeof count, &count, NULL)) return INVALID;
  for (unsigned n = 0; n < count; n++) {
    if (clGetKernelArgInfo(kernel, n, 0x1196, sizeof space, &space, NULL)) return INVALID;
    if (space == 0x119E) { /* private: a number */
      if (clSetKernelArg(kernel, n, 4, arguments[n])) return INVALID;
      continue;
    }
    size_t offset = 0;
    int found = find(*(uint64_t *)arguments[n], &offset);
    if (found < 0 || offset || clSetKernelArg(kernel, n, sizeof(Handle), &buffers[found].buffer)) return INVALID;
  }
  size_t work[2] = {(size_t)x * threads, y}, group[2] = {threads, 1};
  return clEnqueueNDRangeKernel(queue, kernel, 2, NULL, work, group, 0, NULL, NULL);
}
