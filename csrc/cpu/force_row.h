// v = u + du of one row, and its sums.
#pragma once

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"

namespace cxr {
namespace {

template <class T, int F, bool ITK, bool MASKED> struct ForceOf {
  const ForceRow<T>& a;

  // N neighbouring pixels from column x, before the division.
  template <int N> struct Pixels {
    Vector<T, N> d, d2;
    Direction<Vector<T, N>> towards;
  };

  template <int N, bool FLAT = false> CXR_HD Pixels<N> look(int x) const {  // FLAT: the fixed image has no slope in x
    using V = Vector<T, N>;
    const V w = load<N>(a.w + x), d = load<N>(a.r + x) - w;
    const V Rx = FLAT ? V{} : load<N>(a.r + x + 1) - load<N>(a.r + x - 1);
    const V Ry = load<N>(a.r_below + x) - load<N>(a.r_above + x);
    V Wx{}, Wy{};
    if (F != thirion) {
      const V w_left = load<N>(a.w + x - 1), w_right = load<N>(a.w + x + 1);
      const V w_above = load<N>(a.w_above + x), w_below = load<N>(a.w_below + x);
      Wx = ITK ? one_sided(w_left, w, w_right) : w_right - w_left;
      Wy = ITK ? one_sided(w_above, w, w_below) : w_below - w_above;
    }
    return {d, d * d, direction<F>(d, Rx, Ry, Wx, Wy, a.inverse_k)};
  }

  template <int N> struct Totals {
    Vector<T, N> difference{}, change{}, count{};
    Sums sums() const { return {total<T, N>(difference), total<T, N>(change), total<T, N>(count)}; }
  };

  template <int N> CXR_HD void move(int x, const Pixels<N>& p, Totals<N>& totals) const {
    using V = Vector<T, N>;
    const V zero{}, one = zero + T(1);
    auto on = p.d2 <= Limits<T>::largest;
    if (MASKED) on &= load<N>(a.mask + x) > T(0.5);
    Update<V> du = update<T>(p.towards);
    if (MASKED || ITK) {
      auto moves = on;
      if (ITK) moves &= (p.d < zero ? -p.d : p.d) >= a.threshold;
      du = {moves ? du.x : zero, moves ? du.y : zero};
    }
    store(a.out_x + x, load<N>(a.ux + x) + du.x);
    store(a.out_y + x, load<N>(a.uy + x) + du.y);
    add_where(totals.difference, on, p.d2);
    add_where(totals.count, on, one);
    totals.change += du.x * du.x + du.y * du.y;
  }

  // Columns from `x` up to `end`: as many vectors of N as fit, then the rest in vectors of half the size. The next vector is
  // looked at before the last one is moved: the division is long, and a core sees only some 60 instructions ahead.
  template <int N> CXR_HD Sums columns(int x, int end) const {
    Sums sums{0, 0, 0};
    if (x + N <= end) {
      Totals<N> totals;
      Pixels<N> here = look<N>(x);
      for (; x + 2 * N <= end; x += N) {
        const Pixels<N> next = look<N>(x + N);
        move<N>(x, here, totals);
        here = next;
      }
      move<N>(x, here, totals);
      x += N;
      sums = totals.sums();
    }
    if constexpr (N > 1) sums += columns<N / 2>(x, end);
    return sums;
  }
};

// A pixel once more, without a slope in x; the square of its update. Not inlined: it is rare, and so leaves the loop as it is.
template <class T, int F, bool MASKED> __attribute__((noinline)) double move_flat(const ForceRow<T>& a, int x) {
  const ForceOf<T, F, true, MASKED> row{a};
  typename ForceOf<T, F, true, MASKED>::template Totals<1> totals;
  row.template move<1>(x, row.template look<1, true>(x), totals);
  return double(totals.change);
}

template <class T, int F, bool ITK, bool MASKED> CXR_HD Sums whole_row(const ForceRow<T>& args) {
  const ForceRow<T> a = args;  // a copy, which no store can change
  const ForceOf<T, F, ITK, MASKED> row{a};
  Sums sums = row.template columns<register_bytes / sizeof(T)>(0, a.width);
  // ITK: the neighbours of the first and of the last pixel are one value. If it is NaN or infinite, `columns` took their
  // difference for NaN, not 0, and left the pixel unmoved.
  const T first = a.r[1], last = a.r[a.width];
  if (ITK && first - first != T(0)) sums.update += move_flat<T, F, MASKED>(args, 0);
  if (ITK && last - last != T(0)) sums.update += move_flat<T, F, MASKED>(args, a.width - 1);
  return sums;
}

template <class T, int F, bool ITK> Sums force_row(const ForceRow<T>& args) {
  return args.mask ? whole_row<T, F, ITK, true>(args) : whole_row<T, F, ITK, false>(args);
}

}  // namespace
}  // namespace cxr
