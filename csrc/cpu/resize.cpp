// Antialiased bilinear resize: a triangle filter as wide as the larger of the two pixels, weights normalised at the border.
#include <algorithm>
#include <cmath>
#include <vector>

#include "demons.h"

namespace cxr {
namespace {

// out[i] = sum_j weights[i * width + j] in[first[i] + j]
struct Axis {
  int width;
  std::vector<int> first, count;
  std::vector<double> weights;
};

Axis triangle(int in, int out) {
  const double scale = double(in) / out, support = std::max(scale, 1.0);
  Axis axis{int(std::ceil(support)) * 2 + 1, {}, {}, std::vector<double>()};
  axis.weights.assign(size_t(out) * axis.width, 0.0);
  for (int i = 0; i < out; ++i) {
    const double centre = scale * (i + 0.5);
    const int first = std::max(int(centre - support + 0.5), 0);
    const int count = std::min(int(centre + support + 0.5), in) - first;
    double* w = &axis.weights[size_t(i) * axis.width];
    double total = 0;
    for (int j = 0; j < count; ++j) total += w[j] = std::max(0.0, 1 - std::fabs((first + j - centre + 0.5) / support));
    for (int j = 0; j < count; ++j) w[j] /= total;
    axis.first.push_back(first);
    axis.count.push_back(count);
  }
  return axis;
}

}  // namespace

template <class T> void resize_cpu(const T* in, int height, int width, T* out, int new_height, int new_width, T scale) {
  const Axis ax = triangle(width, new_width), ay = triangle(height, new_height);
  std::vector<T> row(width);
  for (int y = 0; y < new_height; ++y) {
    std::fill(row.begin(), row.end(), T(0));
    for (int j = 0; j < ay.count[y]; ++j) {
      const T w = T(ay.weights[size_t(y) * ay.width + j]);
      const T* source = in + size_t(ay.first[y] + j) * width;
      for (int x = 0; x < width; ++x) row[x] += w * source[x];
    }
    for (int x = 0; x < new_width; ++x) {
      const double* w = &ax.weights[size_t(x) * ax.width];
      T sum = 0;
      for (int j = 0; j < ax.count[x]; ++j) sum += T(w[j]) * row[ax.first[x] + j];
      out[size_t(y) * new_width + x] = scale * sum;
    }
  }
}

template void resize_cpu<float>(const float*, int, int, float*, int, int, float);
template void resize_cpu<double>(const double*, int, int, double*, int, int, double);

}  // namespace cxr
