// One Demons iteration as a pipeline over rows, in place.
//
//   step s:  W row s      = moving warped by u row s
//            v row s - 1  = u + du, from rows s - 2 .. s of W and of the fixed image
//            h            = v smoothed along the row
//            u row s - 1 - r = h smoothed along the columns (rows +- r), two rows every other step
//
// u is overwritten at least r + 1 rows behind the row that was read last, so the next iteration may follow `lag` rows behind, while
// everything it reads is still in cache.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {

// One item at one level. `u` holds the x plane, then the y plane.
template <class T> struct Level {
  const T *moving, *fixed, *mask;
  T* u;
  int height, width;
};

// A kernel's taps in the type of the images.
template <class T> std::vector<T> taps_of(const std::vector<double>& taps) { return {taps.begin(), taps.end()}; }

template <class T> class Sweep {
 public:
  Sweep(const Level<T>& level, const DemonsOptions& options)
      : level_(level), options_(options), kernels_(row_kernels<T>()),
        fluid_(taps_of<T>(options.fluid)), diffusion_(taps_of<T>(options.diffusion)),
        rf_(radius(fluid_)), rd_(radius(diffusion_)), pad_(std::max(rf_, rd_)),
        stride_(padded(level.width)), warped_(4 * stride_), zero_(level.width, T(0)),
        scratch_(level.width), buffer_(2 * (stride_ + 2 * pad_)),
        fluid_ring_(fluid_.empty() ? 0 : 2 * (2 * rf_ + 1) * stride_),
        ring_(2 * (2 * rd_ + 2) * stride_), rows_(2 * pad_ + 2) {}

  // Steps of one iteration, and how many steps behind the next iteration may follow.
  int steps() const { return level_.height + 1 + rf_ + rd_; }
  int lag() const { return rf_ + rd_ + 2; }
  int ring_rows() const { return 4 + 2 * (2 * rd_ + 2) + (fluid_.empty() ? 0 : 2 * (2 * rf_ + 1)); }

  // Starts an iteration. `smooth` = false leaves the field as it is after adding the update.
  void begin(bool smooth) {
    smooth_ = smooth && !diffusion_.empty();
    sums_ = {0, 0, 0};
  }

  void step(int s) {
    const int h = level_.height;
    if (s < h) warp(s);
    int y = s - 1;
    if (y >= 0 && y < h) force(y);
    if (!fluid_.empty()) {
      y -= rf_;
      if (y >= 0 && y < h) smooth_update(y);
    }
    y = s - 1 - rf_ - rd_;
    if (smooth_ && y >= 0 && y < h) finish_rows(y);
  }

  const Sums& sums() const { return sums_; }

 private:
  // Rows a little longer than a power of two, so that they do not all fall on the same lines of the cache.
  static size_t padded(int width) { return (size_t(width) + 15) / 16 * 16 + 16; }
  static int radius(const std::vector<T>& taps) { return taps.empty() ? 0 : int(taps.size()) - 1; }
  int clamp(int y) const { return std::min(std::max(y, 0), level_.height - 1); }
  T* plane(int c, int y) const { return level_.u + (size_t(c) * level_.height + y) * level_.width; }
  const T* fixed(int y) const { return level_.fixed + size_t(clamp(y)) * level_.width; }
  T* warped(int y) { return &warped_[(clamp(y) & 3) * stride_]; }
  T* buffer(int c) { return &buffer_[c * (stride_ + 2 * pad_) + pad_]; }
  // Rows of a ring that holds `size` of them for each component.
  T* ring_row(std::vector<T>& ring, int size, int c, int y) { return &ring[(size_t(c) * size + y % size) * stride_]; }
  T* fluid_row(int c, int y) { return ring_row(fluid_ring_, 2 * rf_ + 1, c, y); }
  T* diffusion_row(int c, int y) { return ring_row(ring_, 2 * rd_ + 2, c, y); }
  // Where v = u + du of a row goes: straight into the field, or to where it is smoothed from.
  T* v_row(int c, int y) { return smooth_ ? buffer(c) : plane(c, y); }

  void warp(int y) {
    kernels_.warp({level_.moving, level_.height, level_.width, plane(0, y), plane(1, y), y, warped(y), options_.itk});
  }

  void force(int y) {
    const bool fluid = !fluid_.empty();
    const Sums row = kernels_.force[options_.force][options_.itk](
        {fixed(y - 1), fixed(y), fixed(y + 1), warped(y - 1), warped(y), warped(y + 1),
         fluid ? zero_.data() : plane(0, y), fluid ? zero_.data() : plane(1, y),
         level_.mask ? level_.mask + size_t(y) * level_.width : nullptr,
         fluid ? buffer(0) : v_row(0, y), fluid ? buffer(1) : v_row(1, y),
         level_.width, y == 0, y == level_.height - 1, T(options_.inverse_k), options_.itk ? T(0.001) : T(0)});
    sums_ = {sums_.difference + row.difference, sums_.update + row.update, sums_.count + row.count};
    if (fluid) {
      for (int c = 0; c < 2; ++c) along_row(fluid_, rf_, c, fluid_row(c, y));
    } else if (smooth_) {
      for (int c = 0; c < 2; ++c) along_row(diffusion_, rd_, c, diffusion_row(c, y));
    }
  }

  // v = u + the update smoothed in both directions.
  void smooth_update(int y) {
    for (int c = 0; c < 2; ++c) {
      for (int j = 0; j <= 2 * rf_; ++j) rows_[j] = fluid_row(c, clamp(y + j - rf_));
      kernels_.weighted_sum(rows_.data(), fluid_.data(), rf_, level_.width, scratch_.data());
      const T* u = plane(c, y);
      T* v = v_row(c, y);
      for (int x = 0; x < level_.width; ++x) v[x] = u[x] + scratch_[x];
      if (smooth_) along_row(diffusion_, rd_, c, diffusion_row(c, y));
    }
  }

  void along_row(const std::vector<T>& taps, int radius, int c, T* out) {
    T* row = buffer(c);
    const int n = level_.width;
    for (int j = 1; j <= radius; ++j) {
      row[-j] = row[0];
      row[n - 1 + j] = row[n - 1];
    }
    for (int j = 0; j <= 2 * radius; ++j) rows_[j] = row + j - radius;
    kernels_.weighted_sum(rows_.data(), taps.data(), radius, n, out);
  }

  // Rows y - 1 and y of u at every odd y; the last row alone where the height is odd.
  void finish_rows(int y) {
    const bool pair = y % 2 == 1;
    if (!pair && y != level_.height - 1) return;
    const int first = pair ? y - 1 : y;
    for (int c = 0; c < 2; ++c) {
      for (int j = 0; j <= 2 * rd_ + pair; ++j) rows_[j] = diffusion_row(c, clamp(first + j - rd_));
      if (pair) {
        kernels_.weighted_sums(rows_.data(), diffusion_.data(), rd_, level_.width, plane(c, first), plane(c, y));
      } else {
        kernels_.weighted_sum(rows_.data(), diffusion_.data(), rd_, level_.width, plane(c, y));
      }
    }
  }

  Level<T> level_;
  const DemonsOptions& options_;
  const RowKernels<T>& kernels_;
  std::vector<T> fluid_, diffusion_;
  int rf_, rd_, pad_;
  size_t stride_;
  std::vector<T> warped_, zero_, scratch_, buffer_, fluid_ring_, ring_;
  std::vector<const T*> rows_;
  bool smooth_ = true;
  Sums sums_{};
};

}  // namespace cxr
