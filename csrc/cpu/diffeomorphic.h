// The diffeomorphic iteration and the smoothing of a whole field, in plain passes over the image.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/sweep.h"

namespace cxr {

template <class T> class Passes {
 public:
  Passes(const Level<T>& level, const DemonsOptions& options)
      : level_(level), options_(options), size_(size_t(level.height) * level.width) {}

  // u <- diffusion-smoothed u
  void smooth_field() {
    if (!options_.diffusion.empty()) smooth(level_.u, options_.diffusion);
  }

  // v = exp(du) by scaling and squaring: v = du / 2^N, then N times v <- v + v o (Id + v).
  // u <- v + u o (Id + v), then diffusion smoothing.
  Sums iterate(bool smooth_after) {
    update_.assign(2 * size_, T(0));
    // A sweep that neither smooths nor warps with anything but u writes u + du; du is what it adds.
    const std::vector<T> before(level_.u, level_.u + 2 * size_);
    DemonsOptions additive = options_;
    additive.diffusion.clear();
    Sweep<T> sweep(level_, additive);
    sweep.begin(false);
    for (int s = 0; s < sweep.steps(); ++s) sweep.step(s);
    const T scale = T(1) / T(1 << options_.squarings);
    for (size_t i = 0; i < 2 * size_; ++i) update_[i] = scale * (level_.u[i] - before[i]);
    for (int i = 0; i < options_.squarings; ++i) {
      next_ = update_;
      compose(update_.data(), update_.data(), next_.data());
      update_.swap(next_);
    }
    next_ = before;
    compose(before.data(), update_.data(), next_.data());
    std::copy(next_.begin(), next_.end(), level_.u);
    if (smooth_after) smooth_field();
    return sweep.sums();
  }

 private:
  // out = v + u o (Id + v)
  void compose(const T* u, const T* v, T* out) const {
    const int h = level_.height, w = level_.width;
    for (int c = 0; c < 2; ++c) {
      for (int y = 0; y < h; ++y) {
        for (int x = 0; x < w; ++x) {
          const size_t i = size_t(y) * w + x;
          const T px = T(x) + v[i], py = T(y) + v[size_ + i];
          out[c * size_ + i] = v[c * size_ + i] + sample(u + c * size_, h, w, w, px, py);
        }
      }
    }
  }

  void smooth(T* field, const std::vector<double>& taps) {
    const int h = level_.height, w = level_.width, r = int(taps.size()) - 1;
    const std::vector<T> k = taps_of<T>(taps);
    const RowKernels<T>& kernels = row_kernels<T>();
    std::vector<T> padded(w + 2 * r), plane(size_);
    std::vector<const T*> rows(2 * r + 1);
    for (int c = 0; c < 2; ++c) {
      T* values = field + c * size_;
      for (int y = 0; y < h; ++y) {
        const T* in = values + size_t(y) * w;
        for (int x = -r; x < w + r; ++x) padded[x + r] = in[std::min(std::max(x, 0), w - 1)];
        for (int j = 0; j <= 2 * r; ++j) rows[j] = padded.data() + j;
        kernels.weighted_sum(rows.data(), k.data(), r, w, &plane[size_t(y) * w]);
      }
      for (int y = 0; y < h; ++y) {
        for (int j = 0; j <= 2 * r; ++j) rows[j] = &plane[size_t(std::min(std::max(y + j - r, 0), h - 1)) * w];
        kernels.weighted_sum(rows.data(), k.data(), r, w, values + size_t(y) * w);
      }
    }
  }

  Level<T> level_;
  const DemonsOptions& options_;
  size_t size_;
  std::vector<T> update_, next_;
};

}  // namespace cxr
