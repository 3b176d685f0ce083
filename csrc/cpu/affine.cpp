// Affine registration of two small images by Gauss-Newton (Lucas and Kanade 1981), on one thread.
#include <algorithm>
#include <cmath>
#include <vector>

#include "demons.h"

namespace cxr {
namespace {

constexpr int parameters = 6;
constexpr int block = 256;  // pixels whose terms stay in the fastest cache
constexpr int lanes = 8;    // partial sums of a dot product: they, not the machine's vectors, decide its order

// The terms of a pixel: the six of J (see `follow`), then the warped image, the fixed image and 1.
enum Term : int { warped = parameters, fixed = 7, one = 8, terms = 9 };
using Gram = double[terms][terms];  // sums over the pixels of the products of two terms; lower triangle

// The images about their means, which keeps the sums of squares exact.
struct Pair {
  int n;
  std::vector<double> moving;  // [n,n,4]: value, slope along x, slope along y, 0
  std::vector<double> fixed;   // [n,n]
  std::vector<double> centre;  // [n]: of a column or row, in [-1, 1]

  explicit Pair(const AffineSearch& in) : n(in.size), moving(4 * size_t(n) * n), fixed(size_t(n) * n), centre(n) {
    double moving_mean = 0, fixed_mean = 0;
    for (int i = 0; i < n * n; ++i) moving_mean += in.moving[i] / (n * n), fixed_mean += in.fixed[i] / (n * n);
    // Central differences, one-sided at the border.
    const auto slope = [&](int i, int step, int place) {
      const int before = place > 0, after = place < n - 1;
      return (in.moving[i + after * step] - in.moving[i - before * step]) * n / (2 * (before + after));
    };
    for (int y = 0, i = 0; y < n; ++y) {
      for (int x = 0; x < n; ++x, ++i) {
        double* pixel = &moving[4 * size_t(i)];
        pixel[0] = in.moving[i] - moving_mean, pixel[1] = slope(i, 1, x), pixel[2] = slope(i, n, y);
        fixed[i] = in.fixed[i] - fixed_mean;
      }
      centre[y] = (2.0 * y + 1) / n - 1;
    }
  }

  // The four numbers of the moving image at (x, y), bilinear.
  void sample(double x, double y, double* out) const {
    const Position<double> across = position(((x + 1) * n - 1) / 2, n), down = position(((y + 1) * n - 1) / 2, n);
    const double *p = &moving[4 * (size_t(down.i) * n + across.i)], *below = p + 4 * n;
    for (int c = 0; c < 4; ++c) out[c] = mix(mix(p[c], p[c + 4], across.f), mix(below[c], below[c + 4], across.f), down.f);
  }
};

double dot(const double* a, const double* b, int count) {
  double part[lanes] = {}, sum = 0;
  for (int k = 0; k < count; k += lanes) {
    for (int l = 0; l < lanes; ++l) part[l] += a[k + l] * b[k + l];
  }
  for (double p : part) sum += p;
  return sum;
}

// Adds the products of the terms of `count` pixels.
void add(double (&term)[terms][block], int count, Gram& gram) {
  const int whole = (count + lanes - 1) / lanes * lanes;
  for (auto& t : term) std::fill(t + count, t + whole, 0.0);
  for (int t = 0; t < terms; ++t) {
    for (int s = 0; s <= t; ++s) gram[t][s] += dot(term[t], term[s], whole);
  }
}

// Over the pixels that the map a takes inside.
void sum(const Pair& pair, const double* a, Gram& gram) {
  const double limit = 1 - 1.0 / pair.n;
  alignas(64) double term[terms][block];
  int k = 0;
  for (int i = 0, row = 0; row < pair.n; ++row) {
    for (int column = 0; column < pair.n; ++column, ++i) {
      const double x = pair.centre[column], y = pair.centre[row];
      const double to_x = a[0] * x + a[1] * y + a[2], to_y = a[3] * x + a[4] * y + a[5];
      if (!(std::fabs(to_x) <= limit && std::fabs(to_y) <= limit)) continue;
      double w[4];
      pair.sample(to_x, to_y, w);
      const double values[terms] = {w[1] * x, w[1] * y, w[1], w[2] * x, w[2] * y, w[2], w[0], pair.fixed[i], 1};
      for (int t = 0; t < terms; ++t) term[t][k] = values[t];
      if (++k == block) add(term, block, gram), k = 0;
    }
  }
  add(term, k, gram);
}

// da of (J'J + D) da = J'd by Cholesky, L L' = J'J + D. J'J stands in `gram`; L takes its place.
void solve(Gram& gram, const double* slope, double damping, double* da) {
  for (int i = 0; i < parameters; ++i) {
    gram[i][i] += damping * gram[i][i] + 1e-12;
    for (int j = 0; j <= i; ++j) {
      for (int k = 0; k < j; ++k) gram[i][j] -= gram[i][k] * gram[j][k];
      gram[i][j] = i == j ? std::sqrt(gram[i][i]) : gram[i][j] / gram[j][j];
    }
  }
  for (int i = 0; i < parameters; ++i) {
    da[i] = slope[i];
    for (int k = 0; k < i; ++k) da[i] -= gram[i][k] * da[k];
    da[i] /= gram[i][i];
  }
  for (int i = parameters - 1; i >= 0; --i) {
    for (int k = i + 1; k < parameters; ++k) da[i] -= gram[k][i] * da[k];
    da[i] /= gram[i][i];
  }
}

//   w, f   moving at a [x, y, 1], and fixed; m, s their means and standard deviations over the pixels that fall inside
//   d      (f - m_f) s_w / s_f - (w - m_w)
//   J      dw / da = [w_x x, w_x y, w_x, w_y x, w_y y, w_y]
//   da     (J'J + D)^-1 J'd,   D = damping diag(J'J) + 1e-12
// `map` becomes the a of its way at which w and f correlate best; returns how well.
double follow(const Pair& pair, const AffineSearch& in, double* map) {
  double a[parameters], best = -2;
  std::copy(map, map + parameters, a);
  for (int iteration = 0; iteration < in.iterations; ++iteration) {
    Gram gram = {};
    sum(pair, a, gram);
    const double count = gram[one][one], overlap = count / (double(pair.n) * pair.n);
    const double w_mean = gram[one][warped] / count, f_mean = gram[one][fixed] / count;
    const double w_square = gram[warped][warped] / count, f_square = gram[fixed][fixed] / count;
    const double w_variance = w_square - w_mean * w_mean, f_variance = f_square - f_mean * f_mean;
    const bool varied = w_variance > in.flat * w_square && f_variance > in.flat * f_square;
    if (overlap < in.min_overlap / 2 || !varied) break;

    const double both = gram[fixed][warped] / count - w_mean * f_mean;
    const double correlation = both / std::sqrt(w_variance * f_variance) * std::min(1.0, overlap / in.min_overlap);
    if (correlation > best) best = correlation, std::copy(a, a + parameters, map);

    const double ratio = std::sqrt(w_variance / f_variance);
    double slope[parameters], da[parameters], largest = 0;
    for (int i = 0; i < parameters; ++i) {
      slope[i] = ratio * (gram[fixed][i] - f_mean * gram[one][i]) - (gram[warped][i] - w_mean * gram[one][i]);
    }
    solve(gram, slope, in.damping, da);
    for (int i = 0; i < parameters; ++i) a[i] += da[i], largest = std::max(largest, std::fabs(da[i]));
    if (largest < in.settled) break;
  }
  return best;
}

}  // namespace

void affine_cpu(const AffineSearch& in) {
  const Pair pair(in);
  for (int i = 0; i < in.starts; ++i) in.correlation[i] = follow(pair, in, in.maps + parameters * i);
}

}  // namespace cxr
