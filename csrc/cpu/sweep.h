// One Demons iteration as a pipeline over rows, in place.
//
//   step s:  W row s      = moving warped by u row s
//            v row s - 1  = u + du, from rows s - 2 .. s of W and of the fixed image
//            h            = v smoothed along the row
//            u row s - 1 - r = h smoothed along the columns (rows +- r)
//
// u is overwritten r + 1 rows behind the row that was read last, so the next iteration may follow `lag` rows behind, while
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
        warped_(4 * size_t(level.width)), zero_(level.width, T(0)),
        scratch_(level.width), buffer_(2 * (size_t(level.width) + 2 * pad_)),
        fluid_ring_(fluid_.empty() ? 0 : 2 * (2 * rf_ + 1) * size_t(level.width)),
        ring_(2 * (2 * rd_ + 1) * size_t(level.width)), rows_(2 * std::max(pad_, 1) + 1) {}

  // Steps of one iteration, and how many steps behind the next iteration may follow.
  int steps() const { return level_.height + 1 + rf_ + rd_; }
  int lag() const { return rf_ + rd_ + 1; }
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
    if (smooth_ && y >= 0 && y < h) {
      for (int c = 0; c < 2; ++c) along_columns(ring_, rd_, diffusion_, c, y, plane(c, y));
    }
  }

  const Sums& sums() const { return sums_; }

 private:
  static int radius(const std::vector<T>& taps) { return taps.empty() ? 0 : int(taps.size()) - 1; }
  int clamp(int y) const { return std::min(std::max(y, 0), level_.height - 1); }
  T* plane(int c, int y) const { return level_.u + (size_t(c) * level_.height + y) * level_.width; }
  const T* fixed(int y) const { return level_.fixed + size_t(clamp(y)) * level_.width; }
  T* warped(int y) { return &warped_[size_t(clamp(y) & 3) * level_.width]; }
  T* buffer(int c) { return &buffer_[c * (size_t(level_.width) + 2 * pad_) + pad_]; }
  T* ring_row(std::vector<T>& ring, int radius, int c, int y) {
    return &ring[(size_t(c) * (2 * radius + 1) + y % (2 * radius + 1)) * level_.width];
  }
  // Where v = u + du of a row goes: straight into the field, or to where it is smoothed from.
  T* v_row(int c, int y) { return smooth_ ? buffer(c) : plane(c, y); }

  void warp(int y) {
    kernels_.warp({level_.moving, level_.height, level_.width, plane(0, y), plane(1, y), y, warped(y), options_.itk, 1, 0, 0});
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
      for (int c = 0; c < 2; ++c) along_row(fluid_, rf_, c, ring_row(fluid_ring_, rf_, c, y));
    } else if (smooth_) {
      for (int c = 0; c < 2; ++c) along_row(diffusion_, rd_, c, ring_row(ring_, rd_, c, y));
    }
  }

  // v = u + the update smoothed in both directions.
  void smooth_update(int y) {
    for (int c = 0; c < 2; ++c) {
      along_columns(fluid_ring_, rf_, fluid_, c, y, scratch_.data());
      const T* u = plane(c, y);
      T* v = v_row(c, y);
      for (int x = 0; x < level_.width; ++x) v[x] = u[x] + scratch_[x];
      if (smooth_) along_row(diffusion_, rd_, c, ring_row(ring_, rd_, c, y));
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

  void along_columns(std::vector<T>& ring, int radius, const std::vector<T>& taps, int c, int y, T* out) {
    for (int j = 0; j <= 2 * radius; ++j) rows_[j] = ring_row(ring, radius, c, clamp(y + j - radius));
    kernels_.weighted_sum(rows_.data(), taps.data(), radius, level_.width, out);
  }

  Level<T> level_;
  const DemonsOptions& options_;
  const RowKernels<T>& kernels_;
  std::vector<T> fluid_, diffusion_;
  int rf_, rd_, pad_;
  std::vector<T> warped_, zero_, scratch_, buffer_, fluid_ring_, ring_;
  std::vector<const T*> rows_;
  bool smooth_ = true;
  Sums sums_{};
};

}  // namespace cxr
