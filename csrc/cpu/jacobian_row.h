// The smallest Jacobian determinant of p -> p + u(p) in one row.
#pragma once

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"

namespace cxr {
namespace {

// det(I + grad u) of N neighbouring pixels from column x, by differences between the columns `left` and `right` of it.
template <int N, class T> CXR_HD Vector<T, N> determinant(const JacobianRow<T>& a, int x, int left, int right) {
  const T across = T(1) / T(right - left);
  const auto x_dx = (load<N>(a.ux + right) - load<N>(a.ux + left)) * across;
  const auto y_dx = (load<N>(a.uy + right) - load<N>(a.uy + left)) * across;
  const auto x_dy = (load<N>(a.ux_below + x) - load<N>(a.ux_above + x)) * a.down;
  const auto y_dy = (load<N>(a.uy_below + x) - load<N>(a.uy_above + x)) * a.down;
  return (1 + x_dx) * (1 + y_dy) - x_dy * y_dx;
}

// Of the columns from x up to `end`, none at the border: as many vectors of N as fit, then the rest in smaller ones.
template <int N, class T> CXR_HD T smallest_determinant(const JacobianRow<T>& a, int x, int end, T smallest) {
  const auto least = [&](const Vector<T, N>& v) {
    T lane[N];
    std::memcpy(lane, &v, sizeof v);
    for (T value : lane) smallest = smaller(value, smallest);
  };
  if (x + N <= end) {
    Vector<T, N> so_far = determinant<N>(a, x, x - 1, x + 1), sum = so_far;
    for (x += N; x + N <= end; x += N) {
      const Vector<T, N> d = determinant<N>(a, x, x - 1, x + 1);
      so_far = d < so_far ? d : so_far;
      sum += d;  // keeps a NaN, which the comparison may lose
    }
    least(so_far);
    least(sum != sum ? sum : so_far);
  }
  if constexpr (N > 1) smallest = smallest_determinant<N / 2>(a, x, end, smallest);
  return smallest;
}

template <class T> T jacobian_row(const JacobianRow<T>& args) {
  const JacobianRow<T> a = args;
  const int last = a.width - 1;
  const T smallest = smaller(T(determinant<1>(a, 0, 0, 1)), T(determinant<1>(a, last, last - 1, last)));
  return smallest_determinant<register_bytes / sizeof(T)>(a, 1, last, smallest);
}

}  // namespace
}  // namespace cxr
