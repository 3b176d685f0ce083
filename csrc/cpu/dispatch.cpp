#include "cpu/dispatch.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>

#include "cpu/row_kernels.h"

namespace cxr {

#define CXR_DECLARE(path)                          \
  namespace path {                                 \
  extern const RowKernels<float> kernels_float;    \
  extern const RowKernels<double> kernels_double;  \
  }
CXR_DECLARE(portable)
#ifdef CXR_HAVE_AVX2
CXR_DECLARE(avx2)
#endif
#ifdef CXR_HAVE_AVX512
CXR_DECLARE(avx512)
namespace avx512 {
extern const RowKernels<float> kernels_float_windows;
}
#endif

namespace {

struct Path {
  const char* name;
  bool (*usable)();
  const RowKernels<float>* float_kernels;
  const RowKernels<double>* double_kernels;
};

const Path paths[] = {
    {"portable", [] { return true; }, &portable::kernels_float, &portable::kernels_double},
#ifdef CXR_HAVE_AVX2
    {"avx2", [] { return __builtin_cpu_supports("x86-64-v3") != 0; }, &avx2::kernels_float, &avx2::kernels_double},
#endif
#ifdef CXR_HAVE_AVX512
    {"avx512", [] { return __builtin_cpu_supports("x86-64-v4") != 0; }, &avx512::kernels_float, &avx512::kernels_double},
    {"avx512_windows", [] { return __builtin_cpu_supports("x86-64-v4") != 0; }, &avx512::kernels_float_windows,
     &avx512::kernels_double},
#endif
};

#ifdef CXR_HAVE_AVX512
// Whether gathers take less time than windows for the warp of an iteration of Demons: the shortest of small ones, in turns. Whoever
// is faster, the result is the same.
bool gathers_are_faster() {
  constexpr int width = 256, height = 32;
  const std::vector<float> image(width * height), shift(width, 0.3f);
  std::vector<float> out(width);
  double shortest[2] = {1, 1};
  const RowKernels<float>* kernels[2] = {&avx512::kernels_float, &avx512::kernels_float_windows};
  for (int i = 0; i < 16; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int y = 0; y < height; ++y) {
      kernels[i % 2]->warp({image.data(), height, width, shift.data(), shift.data(), y, out.data(), false, 1, 0});
    }
    const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    shortest[i % 2] = std::min(shortest[i % 2], spent);
  }
  return shortest[0] < shortest[1];
}
#endif

// The best of a processor's instruction sets. They do not say what a gather costs (3 to 7 cycles, 60 with the microcode of
// INTEL-SA-00828), so it is measured, once, in a tenth of a millisecond.
const Path* best() {
  const Path* found = &paths[0];
  for (const Path& path : paths)
    if (path.usable()) found = &path;
#ifdef CXR_HAVE_AVX512
  if (found->float_kernels == &avx512::kernels_float_windows && gathers_are_faster()) --found;
#endif
  return found;
}

std::atomic<const Path*> current{best()};

}  // namespace

std::vector<std::string> compiled_paths() {
  std::vector<std::string> names;
  for (const Path& path : paths) names.push_back(path.name);
  return names;
}

std::vector<std::string> usable_paths() {
  std::vector<std::string> names;
  for (const Path& path : paths)
    if (path.usable()) names.push_back(path.name);
  return names;
}

std::string current_path() { return current.load()->name; }

void set_path(const std::string& name) {
  for (const Path& path : paths) {
    if (name == path.name && path.usable()) {
      current = &path;
      return;
    }
  }
  std::string usable;
  for (const std::string& path : usable_paths()) usable += " " + path;
  throw std::invalid_argument("no usable CPU path is called " + name + "; choose one of" + usable);
}

template <> const RowKernels<float>& row_kernels<float>() { return *current.load()->float_kernels; }
template <> const RowKernels<double>& row_kernels<double>() { return *current.load()->double_kernels; }

}  // namespace cxr
