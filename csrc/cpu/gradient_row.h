// Backward of the bilinear warp for one row: what it adds to the gradient of the image, and the gradient of its displacement.
#pragma once

#include "cpu/warp_row.h"

namespace cxr {
namespace {

// Where neighbouring pixels sample the image: at `index`, index + 1 and a row below, with position()'s weights fx and fy.
template <class T> struct Samples {
  static constexpr int size = 128;
  alignas(64) int index[size];
  alignas(64) T fx[size], fy[size];
};

template <class T> void place_pixels(const WarpRow<T>& a, int from, int to, Samples<T>& s, int k) {
  for (int x = from; x < to; ++x, ++k) {
    const Position<T> px = position(T(x) + a.ux[x], a.width), py = position(T(a.y) + a.uy[x], a.height);
    s.index[k] = py.i * a.width + px.i, s.fx[k] = px.f, s.fy[k] = py.f;
  }
}

template <class T> void place_all(const WarpRow<T>& a, int from, int to, Samples<T>& s) { place_pixels(a, from, to, s, 0); }

// Each pixel adds its gradient to the four that it was mixed from. First every other pixel, then those between: neighbours add
// to the same pixels, and a core that reads what it has just written waits for it.
template <class T> void scatter_row(const GradientRow<T>& a) {
  const WarpRow<T> row = a.row;
  const long below = row.height > 1 ? row.width : 0;
  const bool narrow = row.width < 2;
  Samples<T> s;
  for (int from = 0; from < row.width; from += s.size) {
    const int count = row.width - from < s.size ? row.width - from : s.size;
    place_all(row, from, from + count, s);
    for (int first = 0; first < 2; ++first) {
      for (int k = first; k < count; k += 2) {
        const T g = a.grad[from + k], fx = s.fx[k], fy = s.fy[k];
        T* p = a.image + s.index[k];
        const Vector<T, 2> pair = {g * (1 - fx), g * fx};
        if (narrow) {
          p[0] += pair[0] * (1 - fy), p[below] += pair[0] * fy;  // fx is 0
          continue;
        }
        store(p, load<2>(p) + (1 - fy) * pair);
        store(p + below, load<2>(p + below) + fy * pair);
      }
    }
  }
}

// d image(p) / d p = the differences of the four pixels; 0 where the border clamps.
template <class T> bool within(T p, int n) { return p >= T(0) && p <= T(n - 1); }

template <class T> void slope_pixels(const GradientRow<T>& a) {
  const WarpRow<T>& row = a.row;
  const long right = row.width > 1, below = row.height > 1 ? row.width : 0;
  for (int x = 0; x < row.width; ++x) {
    const T px = T(x) + row.ux[x], py = T(row.y) + row.uy[x];
    const Position<T> sx = position(px, row.width), sy = position(py, row.height);
    T dx = 0, dy = 0;
    for (int c = 0; c < row.channels; ++c) {
      const T *p = row.image + c * row.plane + sy.i * long(row.width) + sx.i, g = a.grad[c * row.plane + x];
      dx += g * mix(p[right] - p[0], p[below + right] - p[below], sy.f);
      dy += g * mix(p[below] - p[0], p[below + right] - p[right], sx.f);
    }
    a.dx[x] = within(px, row.width) ? dx : T(0);
    a.dy[x] = within(py, row.height) ? dy : T(0);
  }
}

template <class T> void slope_row(const GradientRow<T>& a) { slope_pixels(a); }

#ifdef __AVX2__
CXR_HD void place_vectors(const WarpRow<float>& a, int from, int count, Samples<float>& s) {
  Placing<false> placing(a, from);
  for (int k = 0; k < count; ++k) {
    const Place p = placing.next(a.ux + from + k * lanes, a.uy + from + k * lanes);
    store(s.index + k * lanes, p.iy * a.width + p.ix), store(s.fx + k * lanes, p.fx), store(s.fy + k * lanes, p.fy);
  }
}

template <> void place_all<float>(const WarpRow<float>& a, int from, int to, Samples<float>& s) {
  const int vectors = a.width < 2 || a.height < 2 ? 0 : (to - from) / lanes;
  place_vectors(a, from, vectors, s);
  place_pixels(a, from + vectors * lanes, to, s, vectors * lanes);
}

CXR_HD void slope_block(const GradientRow<float>& a, int from, int count) {
  const WarpRow<float>& row = a.row;
  const Vec right_end = Vec{} + float(row.width - 1), bottom_end = Vec{} + float(row.height - 1), zero{};
  Samples<float> s;
  place_vectors(row, from, count, s);
  Vec column = columns_from(from);
  for (int k = 0; k < count; ++k, column += float(lanes)) {
    const int x = from + k * lanes, *index = s.index + k * lanes;
    const Vec fx = load<lanes>(s.fx + k * lanes), fy = load<lanes>(s.fy + k * lanes);
    Vec dx{}, dy{};
    for (int c = 0; c < row.channels; ++c) {
      const float* image = row.image + c * row.plane;
      const Vec g = load<lanes>(a.grad + c * row.plane + x);
      Vec left, right, low_left, low_right;
      pairs(image, index, left, right);
      pairs(image + row.width, index, low_left, low_right);
      dx += g * mix(right - left, low_right - low_left, fy);
      dy += g * mix(low_left - left, low_right - right, fx);
      __builtin_prefetch(image + index[0] + 3 * long(row.width));
    }
    const Vec px = column + load<lanes>(row.ux + x), py = float(row.y) + load<lanes>(row.uy + x);
    store(a.dx + x, ((px >= zero) & (px <= right_end)) ? dx : zero);
    store(a.dy + x, ((py >= zero) & (py <= bottom_end)) ? dy : zero);
  }
}

template <> void slope_row<float>(const GradientRow<float>& a) {
  if (a.row.width < lanes || a.row.height < 2) return slope_pixels(a);
  by_blocks(a, a.row.width, Samples<float>::size / lanes, slope_block);
}
#endif

}  // namespace
}  // namespace cxr
