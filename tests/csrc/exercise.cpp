// Compares the CUDA kernels, run by cuda_shim.h, with the CPU's, and runs every CPU path on many sizes. Built by
// test_kernels.py. Prints what differs and returns the number of differences.
//   exercise cuda        all options of the CUDA kernels
//   exercise cuda-few    enough of them for each line of each kernel, for the slow thread sanitizer
//   exercise cpu         the CPU's, for the sanitizers
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "cpu/dispatch.h"
#include "cuda_shim.h"
#include "demons.h"

using namespace cxr;

namespace {

std::mt19937 generator(0);
int failures = 0, comparisons = 0;

template <class T> std::vector<T> random_values(size_t n, double low, double high) {
  std::uniform_real_distribution<double> draw(low, high);
  std::vector<T> values(n);
  for (T& v : values) v = T(draw(generator));
  return values;
}

// A NaN equals a NaN. With tolerance 0 all bits must agree.
template <class T>
void same(const std::string& what, int h, int w, const std::vector<T>& expected, const std::vector<T>& found, double tolerance) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = expected[i], b = found[i];
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    worst = std::isfinite(a - b) ? std::max(worst, std::fabs(a - b)) : INFINITY;
  }
  ++comparisons;
  if (worst > tolerance) {
    std::printf("%s float%zu %dx%d differs by %g\n", what.c_str(), 8 * sizeof(T), h, w, worst);
    ++failures;
  }
}

template <class T> double tolerance() { return sizeof(T) == 4 ? 2e-4 : 1e-10; }

template <class T> struct Warped {
  std::vector<T> out, grad_image, grad_displacement;
};

// E: float, or uint16_t for bfloat16. Every width of access, with and without a shift.
template <class E> void norms(int b, long n, int channels) {
  const auto bits = [](float v) { uint32_t out; std::memcpy(&out, &v, 4); return out; };
  const auto number = [](uint16_t v) { const uint32_t high = uint32_t(v) << 16; float out; std::memcpy(&out, &high, 4); return out; };
  const auto factors = random_values<float>(b * channels, -1, 1);
  std::vector<E> x;
  for (float v : random_values<float>(size_t(b) * n * channels, 2, 5)) x.push_back(sizeof(E) == 2 ? E(bits(v) >> 16) : E(v));
  for (int groups : {3, 6, 12, 24}) {
    std::vector<E> cpu(x.size()), gpu(x.size());
    const auto batch = [&](std::vector<E>& out) {
      return NormBatch{x.data(), factors.data(), factors.data(), groups > 6 ? factors.data() : nullptr, out.data(), b, n, channels,
                       groups, 1e-5, sizeof(E) == 2};
    };
    norm_silu_cpu(batch(cpu), 1);
    for (bool descending : {false, true}) {
      shim::descending = descending;
      std::vector<char> workspace(norm_silu_cuda_workspace(batch(gpu)), char(0xff));
      norm_silu_cuda(batch(gpu), workspace.data(), nullptr);
      std::vector<float> expected, found;
      for (size_t i = 0; i < x.size(); ++i) {
        expected.push_back(sizeof(E) == 2 ? number(uint16_t(cpu[i])) : float(cpu[i]));
        found.push_back(sizeof(E) == 2 ? number(uint16_t(gpu[i])) : float(gpu[i]));
      }
      same("norm, " + std::to_string(groups) + " groups, " + std::to_string(8 * sizeof(E)) + " bits", b, int(n), expected, found,
           sizeof(E) == 2 ? 0.016 : 2e-5);
    }
  }
}

template <class T> void warps(int h, int w, bool shim) {
  const int b = 2, c = 3;
  const size_t n = size_t(h) * w;
  const auto image = random_values<T>(b * c * n, 0, 1), grad = random_values<T>(b * c * n, -1, 1);
  auto u = random_values<T>(b * 2 * n, -4, 4);
  for (size_t i = 2 * n; i < u.size(); ++i) u[i] /= 8;  // the second item reads next to where it is
  u[0] = T(NAN);
  u[u.size() - 1] = T(INFINITY);
  const WarpImages<T> in{image.data(), u.data(), b, c, h, w};
  const int channels = 48;
  const auto pixels = random_values<float>(b * n * channels, -1, 1), factors = random_values<float>(b * channels, -1, 1);
  std::vector<float> normed(b * n * channels);
  for (bool half : {false, true}) {
    norm_silu_cpu({pixels.data(), factors.data(), factors.data(), half ? nullptr : factors.data(), normed.data(), b, long(n),
                   channels, 8, 1e-5, half}, half ? 1 : 8);  // by images, by groups
  }
  if (shim && sizeof(T) == 4) norms<float>(b, long(n), channels);
  if (shim && sizeof(T) == 8) norms<uint16_t>(b, long(n), channels);
  std::vector<float> points(36 * b * ((h + 3) / 4) * ((w + 3) / 4) * size_t(channels));
  const int rows = b * ((h + 3) / 4);
  winograd_cpu({const_cast<float*>(pixels.data()), nullptr, points.data(), 0, rows, h, w, channels, points.size() / 36}, true, 2);
  winograd_cpu({normed.data(), factors.data(), points.data(), 0, rows, h, w, channels, points.size() / 36}, false, 2);
  if (h > 1 && w > 1) {
    T smallest[2];
    smallest_jacobian_cpu(u.data(), b, h, w, smallest, 1);
  }
  for (int mode : {bilinear, nearest}) {
    Warped<T> cpu{std::vector<T>(b * c * n), std::vector<T>(b * c * n), std::vector<T>(b * 2 * n)};
    warp_cpu(in, mode, cpu.out.data(), 1);
    warp_backward_cpu(in, mode, grad.data(), cpu.grad_image.data(), cpu.grad_displacement.data(), 1);
    for (bool descending : {false, true}) {
      if (!shim) break;
      shim::descending = descending;
      Warped<T> gpu{std::vector<T>(b * c * n), std::vector<T>(b * c * n), std::vector<T>(b * 2 * n)};
      warp_cuda(in, mode, gpu.out.data(), nullptr);
      warp_backward_cuda(in, mode, grad.data(), gpu.grad_image.data(), gpu.grad_displacement.data(), nullptr);
      const std::string name = mode == bilinear ? "warp bilinear" : "warp nearest";
      same(name, h, w, cpu.out, gpu.out, tolerance<T>());
      same(name + " grad_image", h, w, cpu.grad_image, gpu.grad_image, tolerance<T>());
      same(name + " grad_displacement", h, w, cpu.grad_displacement, gpu.grad_displacement, tolerance<T>());
    }
  }
}

template <class T> struct Registered {
  std::vector<T> u, mse, rms;
};

template <class T> struct Case {
  int batch, height, width;
  std::vector<T> moving, fixed, mask, initial;
  size_t size() const { return size_t(height) * width; }

  // Of `count` items from `first`, on the CPU or the shim.
  Registered<T> run(const DemonsOptions& options, bool shim, int first, int count) const {
    const size_t n = size(), total = options.total_iterations();
    Registered<T> out{std::vector<T>(2 * count * n), std::vector<T>(count * total), std::vector<T>(count * total)};
    const DemonsImages<T> images{
        moving.data() + first * n, fixed.data() + first * n, initial.empty() ? nullptr : initial.data() + first * 2 * n,
        mask.empty() ? nullptr : mask.data() + first * n, out.u.data(), out.mse.data(), out.rms.data(), count, height, width};
    if (shim) {
      std::vector<char> workspace(demons_cuda_workspace<T>(count, height, width), char(0xff));
      demons_cuda(images, options, workspace.data(), nullptr);
    } else {
      demons_cpu(images, options, 1);
    }
    return out;
  }
};

template <class T> Case<T> random_case(int h, int w, bool masked) {
  const int b = 2;
  const size_t n = size_t(h) * w;
  Case<T> one{b, h, w, random_values<T>(b * n, 0, 1), random_values<T>(b * n, 0, 1), {}, {}};
  if (w > 8 && h > 1) one.fixed[n + w + 1] = T(NAN);  // beside two borders
  if (masked) {
    one.mask = random_values<T>(b * n, 0, 1.5);
    one.initial = random_values<T>(2 * b * n, -2, 2);
    if (w > 8) one.moving[0] = T(NAN);  // in narrower images the CPU's resize multiplies it by weights of 0
  }
  return one;
}

template <class T> void same(const std::string& name, const Case<T>& c, const Registered<T>& a, const Registered<T>& b, double tolerance) {
  same(name, c.height, c.width, a.u, b.u, tolerance);
  same(name + " mse", c.height, c.width, a.mse, b.mse, tolerance);
  same(name + " rms", c.height, c.width, a.rms, b.rms, tolerance);
}

template <class T> std::vector<T> tail(const std::vector<T>& values) { return {values.begin() + values.size() / 2, values.end()}; }

// The shim equals the CPU; its threads' order and the batch change no bit.
template <class T> void registrations(const std::string& name, int h, int w, const DemonsOptions& options, bool masked) {
  const Case<T> c = random_case<T>(h, w, masked);
  shim::descending = false;
  const Registered<T> cpu = c.run(options, false, 0, 2), gpu = c.run(options, true, 0, 2);
  same(name, c, cpu, gpu, tolerance<T>());
  shim::descending = true;
  same(name + ", order of threads", c, gpu, c.run(options, true, 0, 2), 0);
  same(name + ", batch", c, {tail(gpu.u), tail(gpu.mse), tail(gpu.rms)}, c.run(options, true, 1, 1), 0);
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

std::string name_of(const DemonsOptions& options) {
  const char* forces[] = {"two_force", "esm", "thirion"};
  return std::string(forces[options.force]) + (options.diffeomorphic ? " diffeomorphic" : "") + (options.itk ? " itk" : "") +
         (options.fluid.empty() ? "" : " fluid");
}

// Sizes: one pixel, lines, images that one block holds, and images of many tiles with odd remainders.
void cuda() {
  for (auto [h, w] : {std::pair{1, 1}, {1, 5}, {7, 1}, {9, 13}, {16, 24}, {37, 29}}) {
    warps<float>(h, w, true);
    warps<double>(h, w, true);
    for (int force : {two_force, esm, thirion}) {
      for (int bits = 0; bits < 8; ++bits) {
        const DemonsOptions options = options_of(force, bits & 1, bits & 2, bits & 4);
        registrations<double>(name_of(options), h, w, options, bits & 1);
        registrations<double>(name_of(options), h, w, options, !(bits & 1));
        registrations<float>(name_of(options), h, w, options, h > 20);
      }
    }
  }
}

// Kernels as wide as none, the widest of a tile and wider; a stop by tolerance; more levels; no iteration.
void cuda_extremes() {
  for (int radius : {0, 1, 2, 4, 5, 6, 8, 9, 20}) {
    for (int bits = 0; bits < 4; ++bits) {
      DemonsOptions options = options_of(esm, bits & 1, false, bits & 2);
      options.diffusion.assign(radius + 1, 1.0 / (2 * radius + 1));
      if (radius == 0) options.diffusion.clear();
      if (bits & 2 && radius > 0) options.fluid = options.diffusion;
      registrations<double>(name_of(options) + " radius " + std::to_string(radius), 21, 34, options, true);
    }
  }
  for (int bits = 0; bits < 4; ++bits) {
    for (double limit : {0.1, 0.2, 0.3, 0.4, 10.0}) {
      DemonsOptions options = options_of(thirion, bits & 1, true, bits & 2);
      options.iterations = {6, 0, 6};
      options.shrink = {3, 2, 1};
      options.tolerance = limit;
      registrations<double>(name_of(options) + " tolerance " + std::to_string(limit), 22, 19, options, bits & 1);
      registrations<double>(name_of(options) + " tolerance " + std::to_string(limit), 9, 13, options, bits & 1);
    }
  }
}

void cuda_few() {
  warps<double>(5, 9, true);
  for (auto [h, w] : {std::pair{9, 13}, {17, 10}}) {
    registrations<double>("esm", h, w, options_of(esm, false, false, false), true);
    registrations<double>("thirion itk fluid", h, w, options_of(thirion, false, true, true), false);
  }
  registrations<double>("two_force diffeomorphic", 9, 18, options_of(two_force, true, false, false), false);
  DemonsOptions wide = options_of(esm, false, false, false);
  wide.diffusion.assign(10, 0.05);
  registrations<double>("wide", 9, 18, wide, false);
}

// Box filters, and an affine search from maps that stay inside, leave the image and are not numbers.
void alignment(int n) {
  const auto moving = random_values<double>(size_t(n) * n, 0, 1), fixed = random_values<double>(size_t(n) * n, 0, 1);
  std::vector<double> out(moving.size()), maps, correlation(4);
  for (int radius : {0, 1, n}) box_mean_cpu(moving.data(), n, n, radius, 3, out.data());
  for (double shift : {0.0, 0.3, 5.0, double(NAN)}) maps.insert(maps.end(), {1, 0, shift, 0, 1, -shift});
  affine_cpu({moving.data(), fixed.data(), n, maps.data(), correlation.data(), 4, 8, 0.01, 0.6, 0.01, 1e-12});
}

void cpu() {
  for (int n : {2, 3, 16, 33}) alignment(n);
  for (const std::string& path : usable_paths()) {
    set_path(path);
    warps<float>(6, 600, false);  // rows of smooth and rough parts
    for (int h : {1, 2, 3, 4, 5, 17, 40}) {
      for (int w : {1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 130}) {
        warps<float>(h, w, false);
        random_case<float>(h, w, false).run(options_of(esm, false, w % 2, h % 2), false, 0, 2);
        random_case<float>(h, w, true).run(options_of(two_force, h % 2, false, false), false, 0, 2);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "cuda";
  if (part == "cuda") cuda(), cuda_extremes();
  else if (part == "cuda-few") cuda_few();
  else cpu();
  std::printf("%d differences in %d comparisons\n", failures, comparisons);
  return failures != 0;
}
