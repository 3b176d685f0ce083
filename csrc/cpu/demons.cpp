// The pyramid, the loop over iterations and the split over threads.
#include <cmath>
#include <limits>
#include <memory>

#include "cpu/passes.h"
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

template <class T>
void run_level(const Level<T>& level, const DemonsOptions& options, int count, int first, int threads, Trace<T> trace) {
  // ITK's classic Demons smooths before each iteration instead of after it.
  const bool before = options.itk && options.force == thirion && count > 0;
  const auto smooth = [&](int i) { return !(before && i == count - 1); };
  std::unique_ptr<Passes<T>> passes;
  const bool one_by_one = options.diffeomorphic || options.tolerance >= 0;  // the next one is known only at the end of each
  if (one_by_one || before) passes.reset(new Passes<T>(level, options, threads));
  if (before) passes->smooth_field();
  std::vector<Sums> sums(count);
  if (!one_by_one) run_wavefront(level, options, count, threads, smooth, sums.data());
  for (int i = 0; i < count; ++i) {
    if (one_by_one) sums[i] = passes->iterate(smooth(i));
    if (!trace.record(first + i, sums[i], options.tolerance)) break;
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

  // The field lives in `result` at full size and in `small` and `next` otherwise.
  std::vector<T> small, next, small_moving, small_fixed, small_mask;
  T* u = nullptr;
  int last_h = 0, last_w = 0, first = 0;
  for (size_t i = 0; i < options.shrink.size(); ++i) {
    const int lh = level_size(h, options.shrink[i]), lw = level_size(w, options.shrink[i]);
    const size_t n = size_t(lh) * lw;
    if (i == 0 || lh != last_h || lw != last_w) {
      next.resize(n == size ? 0 : 2 * n);
      T* to = n == size ? result : next.data();
      if (i > 0) resize_field(u, last_h, last_w, to, lh, lw);
      else if (initial) resize_field(initial, h, w, to, lh, lw);
      else std::fill(to, to + 2 * n, T(0));
      small.swap(next);
      u = to;
    }
    Level<T> level{moving, fixed, mask, u, lh, lw};
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
  if (u != result) resize_field(u, last_h, last_w, result, h, w);
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
