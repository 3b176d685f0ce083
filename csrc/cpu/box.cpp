// Repeated box filter by running sums, in a time that does not depend on the size of the box.
#include <algorithm>
#include <vector>

#include "demons.h"

namespace cxr {
namespace {

constexpr int lanes = 8;  // lines filtered side by side: a running sum alone would wait for itself

// body(i, l) for n pixels of `count` lines; unrolled where all lanes are in use.
template <class Body> void each(int n, int count, const Body& body) {
  for (int i = 0; i < n; ++i) {
    if (count == lanes) {
      for (int l = 0; l < lanes; ++l) body(i, l);
    } else {
      for (int l = 0; l < count; ++l) body(i, l);
    }
  }
}

//   out[i] = sum_j in[i + j] / (2 radius + 1),  |j| <= radius,  the ends repeated;  `times` times
// of `lines` lines that start `next` apart, each of n pixels `step` apart. `out` may be `in`.
void along_lines(const double* in, double* out, int lines, size_t next, int n, size_t step, int radius, int times) {
  const double share = 1.0 / (2 * radius + 1);
  std::vector<double> line(size_t(n) * lanes), mean(line.size());
  const auto at = [&](int i) { return &line[size_t(std::clamp(i, 0, n - 1)) * lanes]; };
  for (int first = 0; first < lines; first += lanes) {
    const int count = std::min(lanes, lines - first);
    each(n, count, [&](int i, int l) { line[size_t(i) * lanes + l] = in[(first + l) * next + i * step]; });
    for (int time = 0; time < times; ++time) {
      double sum[lanes] = {};
      for (int j = -radius; j <= radius; ++j) {
        for (int l = 0; l < lanes; ++l) sum[l] += at(j)[l];
      }
      for (int i = 0; i < n; ++i) {
        const double *comes = at(i + radius + 1), *goes = at(i - radius);
        for (int l = 0; l < lanes; ++l) {
          mean[size_t(i) * lanes + l] = share * sum[l];
          sum[l] += comes[l] - goes[l];
        }
      }
      line.swap(mean);
    }
    each(n, count, [&](int i, int l) { out[(first + l) * next + i * step] = line[size_t(i) * lanes + l]; });
  }
}

}  // namespace

void box_mean_cpu(const double* in, int height, int width, int radius, int times, double* out) {
  along_lines(in, out, width, 1, height, width, radius, times);
  along_lines(out, out, height, width, width, 1, radius, times);
}

}  // namespace cxr
