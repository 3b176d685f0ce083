// Iterations one at a time, for updates through the exponential and for levels that stop by themselves. Threads share the
// rows of each pass; a row's arithmetic does not depend on who does it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/wavefront.h"

namespace cxr {

template <class T> class Passes {
 public:
  Passes(const Level<T>& level, const DemonsOptions& options, int threads)
      : level_(level), options_(options), threads_(std::min(threads, level.height)), size_(size_t(level.height) * level.width),
        diffusion_(taps_of<T>(options.diffusion)), update_(2 * size_), next_(2 * size_), lines_(threads_) {
    T* out = options.diffeomorphic ? update_.data() : next_.data();
    sweeps_ = std::vector<Sweep<T>>(threads_, Sweep<T>(level, options, out, !options.diffeomorphic));
    const size_t r = diffusion_.empty() ? 0 : diffusion_.size() - 1;
    for (Line& line : lines_) line = {std::vector<T>(level.width + 2 * r), std::vector<const T*>(2 * r + 1)};
  }

  // u <- smoothed (u + du), or through v = exp(du) by scaling and squaring: v = du / 2^N, then N times v <- v + v o (Id + v);
  // u <- smoothed (v + u o (Id + v)).
  Sums iterate(bool smooth) {
    const Sums sums = sweep(smooth);
    if (!options_.diffeomorphic) {
      std::copy(next_.begin(), next_.end(), level_.u);
      return sums;
    }
    const T scale = T(1) / T(1 << options_.squarings);
    T *v = update_.data(), *out = next_.data();
    for (size_t i = 0; i < 2 * size_; ++i) v[i] *= scale;
    for (int i = 0; i < options_.squarings; ++i) {
      compose(v, v, out);
      std::swap(v, out);
    }
    compose(level_.u, v, out);
    std::copy(out, out + 2 * size_, level_.u);
    if (smooth) smooth_field();
    return sums;
  }

  // u <- diffusion-smoothed u
  void smooth_field() {
    if (diffusion_.empty()) return;
    const int h = level_.height, w = level_.width, r = int(diffusion_.size()) - 1;
    const RowKernels<T>& kernels = row_kernels<T>();
#pragma omp parallel num_threads(threads_) if (threads_ > 1)
    {
#ifdef _OPENMP
      auto& [padded, rows] = lines_[omp_get_thread_num()];
#else
      auto& [padded, rows] = lines_[0];
#endif
#pragma omp for
      for (int row = 0; row < 2 * h; ++row) {
        const T* in = level_.u + size_t(row) * w;
        std::copy(in, in + w, padded.begin() + r);
        std::fill(padded.begin(), padded.begin() + r, in[0]);
        std::fill(padded.end() - r, padded.end(), in[w - 1]);
        for (int j = 0; j <= 2 * r; ++j) rows[j] = padded.data() + j;
        kernels.weighted_sum(rows.data(), diffusion_.data(), r, w, &next_[size_t(row) * w]);
      }
#pragma omp for
      for (int row = 0; row < 2 * h; ++row) {
        const int plane = row / h * h, y = row - plane;
        for (int j = 0; j <= 2 * r; ++j) rows[j] = &next_[size_t(plane + std::min(std::max(y + j - r, 0), h - 1)) * w];
        kernels.weighted_sum(rows.data(), diffusion_.data(), r, w, level_.u + size_t(row) * w);
      }
    }
  }

 private:
  // The additive iteration to next_, or its update alone to update_: every thread a band of rows.
  Sums sweep(bool smooth) {
#pragma omp parallel for num_threads(threads_) if (threads_ > 1)
    for (int band = 0; band < threads_; ++band) {
      const long h = level_.height;
      sweeps_[band].begin(smooth && !options_.diffeomorphic, {int(band * h / threads_), int((band + 1) * h / threads_)});
      for (int s = 0; s < sweeps_[band].steps(); ++s) sweeps_[band].step(s);
    }
    Sums sums{0, 0, 0};
    for (const Sweep<T>& sweep : sweeps_) sweep.add_sums(sums);
    return sums;
  }

  // out = v + u o (Id + v)
  void compose(const T* u, const T* v, T* out) const {
    const int h = level_.height, w = level_.width;
    const RowKernels<T>& kernels = row_kernels<T>();
#pragma omp parallel for num_threads(threads_) if (threads_ > 1)
    for (int y = 0; y < h; ++y) {
      const T *vx = v + size_t(y) * w, *vy = vx + size_;
      T *x = out + size_t(y) * w, *out_y = x + size_;
      kernels.warp({u, h, w, vx, vy, y, x, false, 2, size_});
      for (int i = 0; i < w; ++i) x[i] += vx[i], out_y[i] += vy[i];
    }
  }

  // What a thread smooths a row in.
  struct Line {
    std::vector<T> padded;
    std::vector<const T*> rows;
  };

  Level<T> level_;
  const DemonsOptions& options_;
  int threads_;
  size_t size_;
  std::vector<T> diffusion_, update_, next_;
  std::vector<Line> lines_;
  std::vector<Sweep<T>> sweeps_;
};

}  // namespace cxr
