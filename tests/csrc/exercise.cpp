// Runs every kernel on many sizes and compares the CUDA kernels (through the shim) with the CPU's. Built by
// test_sanitizers.py with the address and the thread sanitizer. Prints what differs; returns the number of differences.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "cpu/dispatch.h"
#include "demons.h"

using namespace cxr;

namespace {

std::mt19937 generator(0);
int failures = 0;

template <class T> std::vector<T> random_values(size_t n, double low, double high) {
  std::uniform_real_distribution<double> draw(low, high);
  std::vector<T> values(n);
  for (T& v : values) v = T(draw(generator));
  return values;
}

template <class T> void same(const char* what, int h, int w, const std::vector<T>& a, const std::vector<T>& b, double tolerance) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    if (!(std::isnan(a[i]) && std::isnan(b[i]))) worst = std::max(worst, std::isfinite(a[i] - b[i]) ? std::fabs(double(a[i] - b[i])) : INFINITY);
  if (!(worst <= tolerance)) {
    std::printf("%s %dx%d differs by %g\n", what, h, w, worst);
    ++failures;
  }
}

template <class T> void warps(int h, int w, bool shim) {
  const int b = 2, c = 2;
  const size_t n = size_t(h) * w;
  const auto image = random_values<T>(b * c * n, 0, 1), grad = random_values<T>(b * c * n, -1, 1);
  auto u = random_values<T>(b * 2 * n, -4, 4);
  u[0] = T(NAN);
  u[u.size() - 1] = T(INFINITY);
  const WarpImages<T> in{image.data(), u.data(), b, c, h, w};
  for (int mode : {bilinear, nearest}) {
    std::vector<T> out(b * c * n), other(out), gi(out), gd(b * 2 * n), gi2(out), gd2(gd);
    warp_cpu(in, mode, out.data(), 1);
    warp_backward_cpu(in, mode, grad.data(), gi.data(), gd.data(), 1);
    if (!shim) continue;
    warp_cuda(in, mode, other.data(), nullptr);
    warp_backward_cuda(in, mode, grad.data(), gi2.data(), gd2.data(), nullptr);
    same("warp", h, w, out, other, 1e-6);
    same("grad_image", h, w, gi, gi2, 1e-4);
    same("grad_displacement", h, w, gd, gd2, 1e-5);
  }
}

template <class T> void registrations(int h, int w, const DemonsOptions& options, bool masked, bool shim) {
  const int b = 2;
  const size_t n = size_t(h) * w;
  const int total = options.total_iterations();
  const auto moving = random_values<T>(b * n, 0, 1), fixed = random_values<T>(b * n, 0, 1), mask = random_values<T>(b * n, 0, 1.5);
  const auto initial = random_values<T>(2 * b * n, -2, 2);
  std::vector<T> u(2 * b * n), u2(u), mse(b * total), rms(mse), mse2(mse), rms2(mse);
  DemonsImages<T> images{moving.data(), fixed.data(), masked ? initial.data() : nullptr, masked ? mask.data() : nullptr,
                         u.data(), mse.data(), rms.data(), b, h, w};
  demons_cpu(images, options, 1);
  if (!shim) return;
  images.displacement = u2.data();
  images.mse = mse2.data();
  images.rms = rms2.data();
  std::vector<char> workspace(demons_cuda_workspace<T>(b, h, w));
  demons_cuda(images, options, workspace.data(), nullptr);
  same("displacement", h, w, u, u2, 1e-9);
  same("mse", h, w, mse, mse2, 1e-9);
  same("rms", h, w, rms, rms2, 1e-9);
}

DemonsOptions options_of(int force, bool diffeomorphic, bool itk, bool fluid) {
  DemonsOptions options;
  options.iterations = {2, 2};
  options.shrink = {2, 1};
  options.force = force;
  options.diffeomorphic = diffeomorphic;
  options.itk = itk;
  options.diffusion = {0.4, 0.2, 0.1};
  if (fluid) options.fluid = {0.5, 0.25};
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && !std::strcmp(argv[1], "quick");
  for (auto [h, w] : {std::pair{1, 1}, {1, 5}, {7, 1}, {9, 13}}) {
    warps<double>(h, w, true);
    for (int force : {two_force, esm, thirion})
      for (int bits = 0; bits < (quick ? 2 : 8); ++bits)
        registrations<double>(h, w, options_of(force, bits & 1, bits & 2, bits & 4), h > 1 && (bits & 1), true);
  }
  if (!quick) {
    DemonsOptions stopping = options_of(esm, false, false, false);
    stopping.iterations = {6, 6};
    stopping.tolerance = 0.3;
    registrations<double>(9, 13, stopping, false, true);
    for (const std::string& path : usable_paths()) {
      set_path(path);
      for (int h : {1, 2, 3, 17, 40})
        for (int w : {1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 130}) {
          warps<float>(h, w, false);
          registrations<float>(h, w, options_of(esm, false, w % 2, h % 2), false, false);
          registrations<float>(h, w, options_of(two_force, h % 2, false, false), true, false);
        }
    }
  }
  std::printf("%d differences\n", failures);
  return failures;
}
