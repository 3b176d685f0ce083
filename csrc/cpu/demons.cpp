// The pyramid, the loop over iterations and the split over threads.
#include <cmath>
#include <limits>
#include <memory>

#include "cpu/diffeomorphic.h"
#include "cpu/wavefront.h"
#include "demons.h"

namespace cxr {
namespace {

template <class T> struct Trace {
  T *mse, *rms;
  // Returns whether the level goes on.
  bool record(int iteration, const Sums& sums, double tolerance) {
    const double count = std::max(sums.count, 1.0), change = std::sqrt(sums.update / count);
    mse[iteration] = T(sums.difference / count);
    rms[iteration] = T(change);
    return !(change < tolerance);
  }
};

// Resizes a displacement and scales its values to the new pixels.
template <class T> void resize_field(const T* in, int h, int w, T* out, int new_h, int new_w) {
  resize_cpu(in, h, w, out, new_h, new_w, T(double(new_w) / w));
  resize_cpu(in + size_t(h) * w, h, w, out + size_t(new_h) * new_w, new_h, new_w, T(double(new_h) / h));
}

template <class T> void run_level(const Level<T>& level, const DemonsOptions& options, int count, int first, int threads,
               Trace<T> trace) {
  const bool before = options.itk && options.force == thirion;  // ITK's classic Demons smooths before each iteration
  Passes<T> passes(level, options);
  if (before) passes.smooth_field();
  const auto smooth = [&](int i) { return !(before && i == count - 1); };
  if (!options.diffeomorphic && options.tolerance < 0) {
    std::vector<Sums> sums(count);
    run_wavefront(level, options, count, threads, smooth, sums.data());
    for (int i = 0; i < count; ++i) trace.record(first + i, sums[i], options.tolerance);
    return;
  }
  for (int i = 0; i < count; ++i) {  // one after another: whether there is a next one is known only at the end
    Sums sums;
    if (options.diffeomorphic) {
      sums = passes.iterate(smooth(i));
    } else {
      run_wavefront(level, options, 1, 1, [&](int) { return smooth(i); }, &sums);
    }
    if (!trace.record(first + i, sums, options.tolerance)) break;
  }
}

template <class T> void run_item(const DemonsImages<T>& all, const DemonsOptions& options, int item, int threads) {
  const int h = all.height, w = all.width;
  const size_t size = size_t(h) * w;
  const int total = options.total_iterations();
  const T *moving = all.moving + item * size, *fixed = all.fixed + item * size;
  const T *initial = all.initial ? all.initial + item * 2 * size : nullptr, *mask = all.mask ? all.mask + item * size : nullptr;
  T* result = all.displacement + item * 2 * size;
  Trace<T> trace{all.mse + item * size_t(total), all.rms + item * size_t(total)};
  std::fill(trace.mse, trace.mse + total, std::numeric_limits<T>::quiet_NaN());
  std::fill(trace.rms, trace.rms + total, std::numeric_limits<T>::quiet_NaN());

  std::vector<T> u, next, small_moving, small_fixed, small_mask;
  int last_h = 0, last_w = 0, first = 0;
  for (size_t i = 0; i < options.shrink.size(); ++i) {
    const int lh = level_size(h, options.shrink[i]), lw = level_size(w, options.shrink[i]);
    const size_t n = size_t(lh) * lw;
    next.assign(2 * n, T(0));
    if (i > 0) resize_field(u.data(), last_h, last_w, next.data(), lh, lw);
    else if (initial) resize_field(initial, h, w, next.data(), lh, lw);
    u.swap(next);
    Level<T> level{moving, fixed, mask, u.data(), lh, lw};
    if (n != size) {
      small_moving.resize(n);
      small_fixed.resize(n);
      resize_cpu(moving, h, w, small_moving.data(), lh, lw, T(1));
      resize_cpu(fixed, h, w, small_fixed.data(), lh, lw, T(1));
      level.moving = small_moving.data();
      level.fixed = small_fixed.data();
      if (mask) {
        small_mask.resize(n);
        resize_cpu(mask, h, w, small_mask.data(), lh, lw, T(1));
        level.mask = small_mask.data();
      }
    }
    run_level(level, options, options.iterations[i], first, threads, trace);
    first += options.iterations[i];
    last_h = lh;
    last_w = lw;
  }
  if (size_t(last_h) * last_w == size) std::copy(u.begin(), u.end(), result);
  else resize_field(u.data(), last_h, last_w, result, h, w);
}

}  // namespace

template <class T> void demons_cpu(const DemonsImages<T>& images, const DemonsOptions& options, int threads) {
  // As many items as threads: one thread an item. Fewer: all threads on each item.
  const bool by_item = images.batch >= threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (by_item)
  for (int item = 0; item < images.batch; ++item) run_item(images, options, item, by_item ? 1 : threads);
}

template void demons_cpu<float>(const DemonsImages<float>&, const DemonsOptions&, int);
template void demons_cpu<double>(const DemonsImages<double>&, const DemonsOptions&, int);

}  // namespace cxr
