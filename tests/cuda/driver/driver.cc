// A CUDA driver and runtime without a GPU: memory is the host's, kernels run in the emulation.
//
// ALT_FAKE_SM is the compute capability of the devices, ALT_FAKE_BYTES their memory.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {

constexpr int kSuccess = 0, kInvalid = 1, kOutOfMemory = 2, kNotFound = 500, kFailed = 719;
constexpr int kDevices = 2;

struct Kernel {
  void* address;
  int arguments, waits;
};
struct Module {
  void* library;
  std::map<std::string, Kernel> kernels;
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned count;
};

std::mutex guard;
std::map<void*, size_t> blocks;
size_t used;
thread_local int device;

size_t number(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}
size_t memory() { return number("ALT_FAKE_BYTES", size_t(1) << 32); }

const char* text_of(int error) {
  switch (error) {
    case kSuccess: return "no error";
    case kOutOfMemory: return "out of memory";
    case kInvalid: return "invalid argument";
    default: return "the emulation failed";
  }
}

// What the code of kernels needs is in this library, where it cannot see it unless told to.
void show_this_library() {
  Dl_info found;
  dladdr((void*)&show_this_library, &found);
  dlopen(found.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

}  // namespace

extern "C" {

int emulate(void*, int, void**, const unsigned*, const unsigned*, unsigned, int, int);

int cudaGetDeviceCount(int* count) { return *count = kDevices, kSuccess; }
int cudaGetDevice(int* found) { return *found = device, kSuccess; }
int cudaSetDevice(int wanted) {
  if (wanted < 0 || wanted >= kDevices) return kInvalid;
  return device = wanted, kSuccess;
}
int cudaDeviceGetAttribute(int* value, int attribute, int which) {
  if (which < 0 || which >= kDevices) return kInvalid;
  int sm = (int)number("ALT_FAKE_SM", 90);
  switch (attribute) {
    case 1: *value = 1024; break;  // threads of a block
    case 8: *value = 48 << 10; break;  // shared memory of a block
    case 10: *value = 32; break;  // threads of a warp
    case 16: *value = 132; break;  // multiprocessors
    case 75: *value = sm / 10; break;
    case 76: *value = sm % 10; break;
    default: *value = 1;
  }
  return kSuccess;
}
int cudaGetDeviceProperties(void*, int) { return kSuccess; }
int cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, length, "emulation");
  return kSuccess;
}
int cudaMalloc(void** found, size_t size) {
  std::lock_guard<std::mutex> lock(guard);
  if (used + size > memory()) return kOutOfMemory;
  *found = std::aligned_alloc(256, (size + 511) / 256 * 256);
  std::memset(*found, 0xff, size);
  blocks[*found] = size;
  used += size;
  return kSuccess;
}
int cudaFree(void* block) {
  std::lock_guard<std::mutex> lock(guard);
  used -= blocks[block];
  blocks.erase(block);
  std::free(block);
  return kSuccess;
}
int cudaMallocHost(void** found, size_t size) {
  *found = std::aligned_alloc(256, (size + 511) / 256 * 256);
  return kSuccess;
}
int cudaFreeHost(void* block) { return std::free(block), kSuccess; }
int cudaMemGetInfo(size_t* left, size_t* all) {
  std::lock_guard<std::mutex> lock(guard);
  *all = memory();
  *left = *all - used;
  return kSuccess;
}
int cudaMemcpyAsync(void* to, const void* from, size_t size, int, void*) {
  return std::memcpy(to, from, size), kSuccess;
}
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void*) {
  return std::memcpy(to, from, size), kSuccess;
}
int cudaGetLastError() { return kSuccess; }
int cudaPeekAtLastError() { return kSuccess; }
const char* cudaGetErrorName(int error) { return text_of(error); }
const char* cudaGetErrorString(int error) { return text_of(error); }
int cuGetErrorName(int error, const char** text) { return *text = text_of(error), kSuccess; }
int cuGetErrorString(int error, const char** text) { return *text = text_of(error), kSuccess; }

int cudaStreamCreate(void** stream) { return *stream = std::malloc(1), kSuccess; }
int cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void* stream) { return std::free(stream), kSuccess; }
int cudaStreamSynchronize(void*) { return kSuccess; }
int cudaStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }

using Clock = std::chrono::steady_clock;
int cudaEventCreate(void** event) { return *event = new Clock::time_point(), kSuccess; }
int cudaEventDestroy(void* event) { return delete (Clock::time_point*)event, kSuccess; }
int cudaEventRecord(void* event, void*) {
  *(Clock::time_point*)event = Clock::now();
  return kSuccess;
}
int cudaEventSynchronize(void*) { return kSuccess; }
int cudaEventElapsedTime(float* ms, void* start, void* end) {
  auto passed = *(Clock::time_point*)end - *(Clock::time_point*)start;
  *ms = std::chrono::duration<float, std::milli>(passed).count();
  return kSuccess;
}

int cudaStreamBeginCapture(void*, int) { return kInvalid; }
int cudaStreamEndCapture(void*, void**) { return kInvalid; }
int cudaGraphInstantiate(void**, void*, unsigned long long) { return kInvalid; }
int cudaGraphLaunch(void*, void*) { return kInvalid; }
int cudaGraphDestroy(void*) { return kSuccess; }
int cudaGraphExecDestroy(void*) { return kSuccess; }
int cuTensorMapEncodeTiled(...) { return kInvalid; }

// An image is what `nvcc` here writes: the size of a list of kernels, the list, a library.
int cuModuleLoadData(void** found, const void* image) {
  const char* bytes = (const char*)image;
  size_t list_size, library_size;
  std::memcpy(&list_size, bytes, 8);
  std::memcpy(&library_size, bytes + 8, 8);
  std::string list(bytes + 16, list_size);
  int file = memfd_create("kernels", 0);
  const char* library = bytes + 16 + list_size;
  if (write(file, library, library_size) != (ssize_t)library_size) return kInvalid;
  std::string path = "/proc/self/fd/" + std::to_string(file);
  show_this_library();
  Module* module = new Module{dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), {}};
  if (!module->library) return kInvalid;
  char name[512];
  int arguments, waits, length;
  for (const char* at = list.c_str();
       std::sscanf(at, "%511s %d %d%n", name, &arguments, &waits, &length) == 3; at += length) {
    Kernel& kernel = module->kernels[name];
    kernel.address = dlsym(module->library, name);
    kernel.arguments = arguments;
    kernel.waits = waits;
  }
  *found = module;
  return kSuccess;
}
int cuModuleUnload(void*) { return kSuccess; }
int cuModuleGetFunction(void** found, void* module, const char* name) {
  auto& kernels = ((Module*)module)->kernels;
  auto at = kernels.find(name);
  if (at == kernels.end()) return kNotFound;
  return *found = &at->second, kSuccess;
}
int cuFuncSetAttribute(void*, int, int) { return kSuccess; }
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void**) {
  Kernel* kernel = (Kernel*)function;
  void* arguments[256];
  for (int k = 0; k < kernel->arguments; ++k) arguments[k] = *(void**)parameters[k];
  int code = emulate(kernel->address, kernel->arguments, arguments, config->grid, config->block,
                     config->shared_bytes, kernel->waits, 0);
  return code ? kFailed : kSuccess;
}

}  // extern "C"
