// Antialiased bilinear resize: a triangle filter as wide as the larger of the two pixels, weights normalised at the border.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {
namespace {

// out[i] = sum_j weights[i * taps + j] in[first[i] + j], j < count[i]; nothing else is read, so that a NaN goes no further.
template <class T> struct Axis {
  int taps;
  std::vector<int> first, count;
  std::vector<T> weights;
};

template <class T> Axis<T> triangle(int in, int out) {
  const double scale = double(in) / out, support = std::max(scale, 1.0);
  Axis<T> axis{int(std::ceil(2 * support)) + 1, std::vector<int>(out), std::vector<int>(out), {}};
  axis.weights.assign(size_t(out) * axis.taps, T(0));
  for (int i = 0; i < out; ++i) {
    const double centre = scale * (i + 0.5);
    const auto weight = [&](int j) { return 1 - std::fabs((j - centre + 0.5) / support); };
    int from = std::max(int(centre - support + 0.5), 0), to = std::min(int(centre + support + 0.5), in);
    while (weight(from) <= 0) ++from;
    while (weight(to - 1) <= 0) --to;
    double total = 0;
    for (int j = from; j < to; ++j) total += weight(j);
    for (int j = from; j < to; ++j) axis.weights[size_t(i) * axis.taps + j - from] = T(weight(j) / total);
    axis.first[i] = from;
    axis.count[i] = to - from;
  }
  return axis;
}

// USUAL: the number of taps of most pixels, for which the sum is unrolled.
template <int USUAL, class T> void along_row(const Axis<T>& axis, const T* in, T* out) {
  const int n = int(axis.first.size());
  for (int x = 0; x < n; ++x) {
    const T *w = &axis.weights[size_t(x) * axis.taps], *source = in + axis.first[x];
    const int count = axis.count[x];
    T sum = 0;
    if (count == USUAL) {
      for (int j = 0; j < USUAL; ++j) sum += w[j] * source[j];
    } else {
      for (int j = 0; j < count; ++j) sum += w[j] * source[j];
    }
    out[x] = sum;
  }
}

}  // namespace

// Rows first where the image grows, columns first where it shrinks: the second pass then has less to do.
template <class T> void resize_cpu(const T* in, int height, int width, T* out, int new_height, int new_width, T scale) {
  const Axis<T> ax = triangle<T>(width, new_width), ay = triangle<T>(height, new_height);
  const auto horizontal = new_width > width ? along_row<2, T> : new_width * 2 >= width ? along_row<4, T> : along_row<8, T>;
  const bool rows_first = new_height > height;
  std::vector<T> wide(rows_first ? size_t(height) * new_width : 0), row(width);
  for (int y = 0; rows_first && y < height; ++y) horizontal(ax, in + size_t(y) * width, &wide[size_t(y) * new_width]);
  const T* source = rows_first ? wide.data() : in;
  const int n = rows_first ? new_width : width;
  std::vector<const T*> lines(ay.taps);
  std::vector<T> weights(ay.taps);
  for (int y = 0; y < new_height; ++y) {
    for (int j = 0; j < ay.count[y]; ++j) {
      lines[j] = source + size_t(ay.first[y] + j) * n;
      weights[j] = scale * ay.weights[size_t(y) * ay.taps + j];
    }
    T *to = out + size_t(y) * new_width, *sum = rows_first ? to : row.data();
    row_kernels<T>().weighted_rows(lines.data(), weights.data(), ay.count[y], n, sum);
    if (!rows_first) horizontal(ax, sum, to);
  }
}

template void resize_cpu<float>(const float*, int, int, float*, int, int, float);
template void resize_cpu<double>(const double*, int, int, double*, int, int, double);

}  // namespace cxr
