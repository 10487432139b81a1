// A CUDA driver and runtime without a GPU: memory is the host's, kernels run in the emulation.
//
// ALT_FAKE_SM is the compute capability of the devices, ALT_FAKE_BYTES their memory. With
// ALT_FAKE_CAPTURE=0 no stream is recorded, with ALT_FAKE_FAULT=1 every launch fails. Where
// ALT_FAKE_LAUNCH_NS and ALT_FAKE_REPLAY_NS say how long a kernel takes, started by the host or by a
// graph, that is what events tell; elsewhere they tell the time.
//
// A stream that is recorded runs nothing. What a graph launches reads and writes where it was
// recorded to, so memory that was given back meanwhile is a fault, as on a device.
//
// As with the real one, a process whose parent used it before the fork gets errors only, and so does
// everybody in a process in which a kernel faulted.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

// In `emulation.cc`.
extern "C" int emulate(void* kernel, int count, void** arguments, const unsigned* grid,
                       const unsigned* block, unsigned shared_bytes, int waits, int seed);

namespace {

constexpr int kSuccess = 0, kInvalid = 1, kOutOfMemory = 2, kForked = 3, kNotFound = 500;
constexpr int kNoContext = 201, kFailed = 719, kFault = 700, kCannotCapture = 900, kBroken = 901;
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

int lost;  // the error after which nothing works any more

struct Launch {
  Kernel* kernel;
  unsigned grid[3], block[3], shared_bytes;
  std::vector<void*> arguments;
  int run() {
    int code = emulate(kernel->address, kernel->arguments, arguments.data(), grid, block,
                       shared_bytes, kernel->waits, 0);
    // The host does not wait: who does, hears of it.
    if (code) lost = kFailed;
    return kSuccess;
  }
};
using Graph = std::vector<Launch>;
struct Stream {
  bool recorded = false, broken = false;
  Graph graph;
};

std::mutex guard;
std::map<void*, size_t> blocks;
size_t used;
thread_local int device;
thread_local bool has_context;
thread_local Stream* recording;  // of this thread: it must not wait or ask for memory meanwhile
size_t direct, recorded, replayed, graphs;
int64_t ticks;  // nanoseconds that kernels took, where they are told how long that is
pid_t owner;

// What every call answers from now on, if not success.
int trouble() {
  if (!owner) owner = getpid();
  return owner == getpid() ? lost : kForked;
}

// What is not allowed while this thread records a stream.
bool breaks_recording() {
  if (recording) recording->broken = true;
  return recording != nullptr;
}
bool is_memory(void* address) {
  std::lock_guard<std::mutex> lock(guard);
  auto next = blocks.upper_bound(address);
  if (next == blocks.begin()) return false;
  auto [start, size] = *--next;
  return (char*)address < (char*)start + std::max<size_t>(size, 1);
}

size_t number(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}
// On the clock of the device, in nanoseconds.
int64_t now() {
  if (std::getenv("ALT_FAKE_LAUNCH_NS")) return ticks;
  auto passed = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
}
size_t memory() { return number("ALT_FAKE_BYTES", size_t(1) << 32); }

const char* text_of(int error) {
  switch (error) {
    case kSuccess: return "no error";
    case kOutOfMemory: return "out of memory";
    case kInvalid: return "invalid argument";
    case kCannotCapture: return "operation not permitted when stream is capturing";
    case kBroken: return "operation failed due to a previous error during capture";
    case kNoContext: return "invalid device context";
    case kFault: return "an illegal memory access was encountered";
    case kForked: return "initialization error";
    case kFailed: return "unspecified launch failure";
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

int cudaGetDeviceCount(int* count) {
  if (int error = trouble()) return error;
  return *count = kDevices, kSuccess;
}
int cudaGetDevice(int* found) { return *found = device, kSuccess; }
int cudaSetDevice(int wanted) {
  if (int error = trouble()) return error;
  if (wanted < 0 || wanted >= kDevices) return kInvalid;
  return device = wanted, has_context = true, kSuccess;
}
int cudaDeviceGetAttribute(int* value, int attribute, int which) {
  if (int error = trouble()) return error;
  if (which < 0 || which >= kDevices) return kInvalid;
  int sm = (int)number("ALT_FAKE_SM", 90);
  switch (attribute) {
    case 1: *value = 1024; break;  // threads of a block
    case 8: *value = 48 << 10; break;  // shared memory of a block
    case 10: *value = 32; break;  // threads of a warp
    case 16: *value = 132; break;  // multiprocessors
    case 38: *value = 50 << 20; break;  // second-level cache
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
  if (breaks_recording()) return kCannotCapture;
  if (int error = trouble()) return error;
  std::lock_guard<std::mutex> lock(guard);
  if (used + size > memory()) return kOutOfMemory;
  *found = std::aligned_alloc(256, (size + 511) / 256 * 256);
  std::memset(*found, 0xff, size);
  blocks[*found] = size;
  used += size;
  return kSuccess;
}
int cudaFree(void* block) {
  if (breaks_recording()) return kCannotCapture;
  if (int error = trouble()) return error;
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
  if (int error = trouble()) return error;
  std::lock_guard<std::mutex> lock(guard);
  *all = memory();
  *left = *all - used;
  return kSuccess;
}
int cudaMemcpyAsync(void* to, const void* from, size_t size, int, void*) {
  if (breaks_recording()) return kCannotCapture;
  if (int error = trouble()) return error;
  return std::memcpy(to, from, size), kSuccess;
}
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void*) {
  if (int error = trouble()) return error;
  return std::memcpy(to, from, size), kSuccess;
}
int cudaGetLastError() { return kSuccess; }
int cudaPeekAtLastError() { return kSuccess; }
const char* cudaGetErrorName(int error) { return text_of(error); }
const char* cudaGetErrorString(int error) { return text_of(error); }
int cuGetErrorName(int error, const char** text) { return *text = text_of(error), kSuccess; }
int cuGetErrorString(int error, const char** text) { return *text = text_of(error), kSuccess; }

int cudaStreamCreate(void** stream) {
  if (int error = trouble()) return error;
  return *stream = new Stream, kSuccess;
}
int cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void* stream) { return delete (Stream*)stream, kSuccess; }
int cudaStreamSynchronize(void*) {
  if (breaks_recording()) return kCannotCapture;
  return trouble();
}
int cudaStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }

int cuEventCreate(void** event, unsigned) {
  if (int error = trouble()) return error;
  return *event = new int64_t(0), kSuccess;
}
int cuEventDestroy_v2(void* event) { return delete (int64_t*)event, kSuccess; }
int cuEventRecord(void* event, void*) {
  if (int error = trouble()) return error;
  *(int64_t*)event = now();
  return kSuccess;
}
int cuEventSynchronize(void*) { return trouble(); }
int cuEventElapsedTime(float* ms, void* start, void* end) {
  if (int error = trouble()) return error;
  return *ms = (*(int64_t*)end - *(int64_t*)start) * 1e-6, kSuccess;
}
int cudaEventCreate(void** event) { return cuEventCreate(event, 0); }
int cudaEventDestroy(void* event) { return cuEventDestroy_v2(event); }
int cudaEventRecord(void* event, void* stream) { return cuEventRecord(event, stream); }
int cudaEventSynchronize(void* event) { return cuEventSynchronize(event); }
int cudaEventElapsedTime(float* ms, void* start, void* end) {
  return cuEventElapsedTime(ms, start, end);
}

int cudaStreamBeginCapture(void*, int) { return kInvalid; }
int cudaStreamEndCapture(void*, void**) { return kInvalid; }
int cudaGraphInstantiate(void**, void*, unsigned long long) { return kInvalid; }
int cudaGraphLaunch(void*, void*) { return kInvalid; }
int cudaGraphDestroy(void*) { return kSuccess; }
int cudaGraphExecDestroy(void*) { return kSuccess; }

int cuCtxGetCurrent(void** context) {
  *context = has_context ? (void*)(intptr_t)(device + 1) : nullptr;
  return kSuccess;
}
int cuCtxSetCurrent(void* context) {
  has_context = context != nullptr;
  device = has_context ? (int)(intptr_t)context - 1 : 0;
  return kSuccess;
}
int cuStreamCreate(void** stream, unsigned) {
  return has_context ? cudaStreamCreate(stream) : kNoContext;
}
int cuStreamDestroy_v2(void* stream) { return cudaStreamDestroy(stream); }
int cuStreamIsCapturing(void* stream, int* status) {
  return *status = stream && ((Stream*)stream)->recorded, kSuccess;
}
int cuStreamBeginCapture_v2(void* stream, int) {
  if (!stream || !number("ALT_FAKE_CAPTURE", 1)) return kCannotCapture;
  recording = (Stream*)stream;
  *recording = Stream{true, false, {}};
  return kSuccess;
}
int cuStreamEndCapture(void* stream, void** graph) {
  Stream* ended = (Stream*)stream;
  if (!ended->recorded) return kInvalid;
  *graph = ended->broken ? nullptr : new Graph(ended->graph);
  int code = ended->broken ? kBroken : kSuccess;
  *ended = Stream{};
  recording = nullptr;
  return code;
}
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
  if (!graph) return kInvalid;
  return *made = new Graph(*(Graph*)graph), ++graphs, kSuccess;
}
int cuGraphDestroy(void* graph) { return delete (Graph*)graph, graph ? kSuccess : kInvalid; }
int cuGraphExecDestroy(void* graph) { return delete (Graph*)graph, --graphs, kSuccess; }
int cuGraphLaunch(void* graph, void* stream) {
  if (!has_context) return kNoContext;
  if (stream && ((Stream*)stream)->recorded) return kCannotCapture;
  for (Launch& launch : *(Graph*)graph) {
    for (void* argument : launch.arguments)
      if (!is_memory(argument)) return kFault;
    ++replayed, ticks += number("ALT_FAKE_REPLAY_NS", 0);
    if (int code = launch.run()) return code;
  }
  return kSuccess;
}

// For tests: launches that ran at once, that were recorded, that were replayed; graphs there are.
size_t fake_count(int which) {
  size_t counts[] = {direct, recorded, replayed, graphs};
  return counts[which];
}

int cuTensorMapEncodeTiled(...) { return kInvalid; }

// An image is what `nvcc` here writes: the size of a list of kernels, the list, a library.
int cuModuleLoadData(void** found, const void* image) {
  if (int error = trouble()) return error;
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
  if (int error = trouble()) return error;
  if (!has_context) return kNoContext;
  if (number("ALT_FAKE_FAULT", 0)) return kFault;
  Launch launch{(Kernel*)function, {}, {}, config->shared_bytes, {}};
  std::copy_n(config->grid, 3, launch.grid);
  std::copy_n(config->block, 3, launch.block);
  for (int k = 0; k < launch.kernel->arguments; ++k)
    launch.arguments.push_back(*(void**)parameters[k]);
  Stream* stream = (Stream*)config->stream;
  if (stream && stream->recorded) {
    stream->graph.push_back(launch);
    return ++recorded, kSuccess;
  }
  ++direct, ticks += number("ALT_FAKE_LAUNCH_NS", 0);
  return launch.run();
}

}  // extern "C"
