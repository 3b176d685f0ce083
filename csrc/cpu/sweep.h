// One Demons iteration as a pipeline over rows.
//
//   step s:  W row y       = moving warped by u row y
//            v row y - 1   = u + du, from rows y - 2 .. y of W and of the fixed image
//            h             = v smoothed along the row
//            out row y - 1 - r = h smoothed along the columns (rows +- r), two rows every other step
//
// `out` may be u itself: it is overwritten at least r + 1 rows behind what was read last, so the next iteration may follow
// `lag` steps behind, while everything it reads is still in cache.
#pragma once

#include <algorithm>
#include <limits>
#include <new>
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

struct Rows {
  int from, to;
  bool hold(int y) const { return y >= from && y < to; }
  // These and `reach` more on both sides, as far as there are any.
  Rows with(int reach, int height) const { return {std::max(from - reach, 0), std::min(to + reach, height)}; }
};

// A kernel's taps in the type of the images.
template <class T> std::vector<T> taps_of(const std::vector<double>& taps) { return {taps.begin(), taps.end()}; }

// Memory that starts with a line of the cache: a vector that straddles two of them is read twice.
template <class T> struct LineAligned {
  using value_type = T;
  static constexpr std::align_val_t line{64};
  LineAligned() = default;
  template <class U> LineAligned(const LineAligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
  void deallocate(T* p, size_t) { ::operator delete(p, line); }
  template <class U> bool operator==(const LineAligned<U>&) const { return true; }
  template <class U> bool operator!=(const LineAligned<U>&) const { return false; }
};
template <class T> using Buffer = std::vector<T, LineAligned<T>>;

template <class T> class Sweep {
 public:
  // Results go to `out` [2,H,W]: u + du, or du alone where not `add`.
  Sweep(const Level<T>& level, const DemonsOptions& options, T* out, bool add)
      : level_(level), options_(options), kernels_(row_kernels<T>()), out_(out), add_(add),
        fluid_(taps_of<T>(options.fluid)), diffusion_(taps_of<T>(options.diffusion)),
        rf_(radius(fluid_)), rd_(radius(diffusion_)), pad_((std::max(rf_, rd_) + 15) / 16 * 16),
        stride_(padded(level.width)), warped_(4 * stride_), fixed_(4 * stride_), zero_(level.width, T(0)),
        outside_(level.width, std::numeric_limits<T>::quiet_NaN()), scratch_(level.width),
        buffer_(2 * (stride_ + 2 * pad_)), fluid_ring_(fluid_.empty() ? 0 : 2 * (2 * rf_ + 1) * stride_),
        ring_(2 * (2 * rd_ + 2) * stride_), rows_(2 * std::max(rf_, rd_) + 2), row_sums_(level.height) {}

  int reach() const { return 1 + rf_ + rd_; }  // rows around a pixel that its result depends on
  int lag() const { return reach() + 1; }      // steps by which the next iteration follows
  int steps() const { return rows_out_.to - rows_warp_.from + reach(); }

  // Starts an iteration that results in `rows`. `smooth` = false leaves the field as it is after adding the update.
  void begin(bool smooth, Rows rows) {
    smooth_ = smooth && !diffusion_.empty();
    rows_out_ = rows;
    rows_v_ = rows.with(rd_, level_.height);
    rows_force_ = rows.with(rd_ + rf_, level_.height);
    rows_warp_ = rows.with(reach(), level_.height);
  }

  void step(int s) {
    const int y = rows_warp_.from + s;
    if (rows_warp_.hold(y)) warp(y);
    if (rows_force_.hold(y - 1)) force(y - 1);
    if (!fluid_.empty() && rows_v_.hold(y - 1 - rf_)) smooth_update(y - 1 - rf_);
    if (smooth_ && rows_out_.hold(y - reach())) finish_rows(y - reach());
  }

  // Of the rows that this iteration resulted in, in their order: threads that share an iteration change no bit of the sum.
  void add_sums(Sums& total) const {
    for (int y = rows_out_.from; y < rows_out_.to; ++y) total += row_sums_[y];
  }

 private:
  // Room for a row and what stands at its ends; a little longer than a power of two, so that rows do not all fall on the same
  // lines of the cache.
  static constexpr int end = 16;
  static size_t padded(int width) { return (size_t(width) + 15) / 16 * 16 + 2 * end; }
  static int radius(const std::vector<T>& taps) { return taps.empty() ? 0 : int(taps.size()) - 1; }
  int clamp(int y) const { return std::min(std::max(y, 0), level_.height - 1); }
  size_t at(int c, int y) const { return (size_t(c) * level_.height + y) * level_.width; }
  // The last four rows of each image.
  T* fixed(int y) { return &fixed_[(clamp(y) & 3) * stride_ + end]; }
  T* warped(int y) { return &warped_[(clamp(y) & 3) * stride_ + end]; }
  T* buffer(int c) { return &buffer_[c * (stride_ + 2 * pad_) + pad_]; }
  // Rows of a ring that holds `size` of them for each component.
  T* ring_row(Buffer<T>& ring, int size, int c, int y) { return &ring[(size_t(c) * size + y % size) * stride_]; }
  T* fluid_row(int c, int y) { return ring_row(fluid_ring_, 2 * rf_ + 1, c, y); }
  T* diffusion_row(int c, int y) { return ring_row(ring_, 2 * rd_ + 2, c, y); }
  const T* u_row(int c, int y) const { return add_ ? level_.u + at(c, y) : zero_.data(); }
  // Where v = u + du of a row goes: straight to the result, or to where it is smoothed from.
  T* v_row(int c, int y) { return smooth_ ? buffer(c) : out_ + at(c, y); }

  // Differences at a border: W(x + 1) - W(x), the border repeated. ITK: one-sided or none of W, where NaN marks what is
  // outside, and none of the fixed image, whose neighbours on both sides are the same.
  void warp(int y) {
    const int n = level_.width, inner = options_.itk ? std::min(1, n - 1) : 0;
    const T* row = level_.fixed + at(0, y);
    T *r = fixed(y), *w = warped(y);
    std::copy(row, row + n, r);
    r[-1] = r[inner], r[n] = r[n - 1 - inner];
    kernels_.warp({level_.moving, level_.height, n, level_.u + at(0, y), level_.u + at(1, y), y, w, options_.itk, 1, 0});
    w[-1] = options_.itk ? outside_[0] : w[0], w[n] = options_.itk ? outside_[0] : w[n - 1];
  }

  void force(int y) {
    const bool fluid = !fluid_.empty(), border = options_.itk && (y == 0 || y == level_.height - 1);
    const T *r_above = fixed(border ? y : y - 1), *r_below = fixed(border ? y : y + 1);
    const T* w_above = options_.itk && y == 0 ? outside_.data() : warped(y - 1);
    const T* w_below = options_.itk && y == level_.height - 1 ? outside_.data() : warped(y + 1);
    const Sums row = kernels_.force[options_.force][options_.itk](
        {r_above, fixed(y), r_below, w_above, warped(y), w_below,
         fluid ? zero_.data() : u_row(0, y), fluid ? zero_.data() : u_row(1, y),
         level_.mask ? level_.mask + at(0, y) : nullptr, fluid ? buffer(0) : v_row(0, y), fluid ? buffer(1) : v_row(1, y),
         level_.width, T(options_.inverse_k), options_.itk ? T(0.001) : T(0)});
    row_sums_[y] = row;
    for (int c = 0; c < 2; ++c) {
      if (fluid) along_row(fluid_, rf_, buffer(c), fluid_row(c, y));
      else if (smooth_) along_row(diffusion_, rd_, buffer(c), diffusion_row(c, y));
    }
  }

  // v = u + the update smoothed in both directions.
  void smooth_update(int y) {
    for (int c = 0; c < 2; ++c) {
      for (int j = 0; j <= 2 * rf_; ++j) rows_[j] = fluid_row(c, clamp(y + j - rf_));
      kernels_.weighted_sum(rows_.data(), fluid_.data(), rf_, level_.width, scratch_.data());
      const T* u = u_row(c, y);
      T* v = v_row(c, y);
      for (int x = 0; x < level_.width; ++x) v[x] = u[x] + scratch_[x];
      if (smooth_) along_row(diffusion_, rd_, buffer(c), diffusion_row(c, y));
    }
  }

  // Smooths a row around which there is room for its ends, repeated.
  void along_row(const std::vector<T>& taps, int radius, T* row, T* out) {
    const int n = level_.width;
    std::fill(row - radius, row, row[0]);
    std::fill(row + n, row + n + radius, row[n - 1]);
    kernels_.along_row(row, taps.data(), radius, n, rows_.data(), out);
  }

  // Two rows at every other step; the last row alone where their number is odd.
  void finish_rows(int y) {
    const bool pair = (y - rows_out_.from) % 2 == 1;
    if (!pair && y != rows_out_.to - 1) return;
    const int first = pair ? y - 1 : y;
    for (int c = 0; c < 2; ++c) {
      for (int j = 0; j <= 2 * rd_ + pair; ++j) rows_[j] = diffusion_row(c, clamp(first + j - rd_));
      if (pair) {
        kernels_.weighted_sums(rows_.data(), diffusion_.data(), rd_, level_.width, out_ + at(c, first), out_ + at(c, y));
      } else {
        kernels_.weighted_sum(rows_.data(), diffusion_.data(), rd_, level_.width, out_ + at(c, y));
      }
    }
  }

  Level<T> level_;
  const DemonsOptions& options_;
  const RowKernels<T>& kernels_;
  T* out_;
  bool add_, smooth_ = true;
  std::vector<T> fluid_, diffusion_;
  int rf_, rd_, pad_;
  size_t stride_;
  Buffer<T> warped_, fixed_, zero_, outside_, scratch_, buffer_, fluid_ring_, ring_;
  std::vector<const T*> rows_;
  std::vector<Sums> row_sums_;
  Rows rows_out_{}, rows_v_{}, rows_force_{}, rows_warp_{};
};

}  // namespace cxr
