// The warp in vectors of sixteen lanes. Neighbouring pixels read near each other on any displacement that is nearly smooth, so they can
// get their pixels by shuffles out of a few whole rows. Where two or three rows do, that takes less time than gathers on an AMD and on an Intel core;
// on rougher fields, where it takes five, half the time of an AMD core's gathers and a fifth more than an Intel core's.
#pragma once

#include <climits>

#include "cpu/warp_vectors.h"

namespace cxr {
namespace {

constexpr int block = INT_MAX;  // a row at once
constexpr int narrowest = lanes, lowest = 2, longest = SHRT_MAX;  // other images go pixel by pixel

using Mask = __mmask16;
CXR_HD Mask equal(Int a, Int b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
CXR_HD Mask exceeds(Int v, int limit) { return _mm512_cmpgt_epu32_mask((__m512i)v, _mm512_set1_epi32(limit)); }  // or negative
CXR_HD void put(Vec& v, Mask where, Vec values) { v = (Vec)_mm512_mask_mov_ps((__m512)v, where, (__m512)values); }
CXR_HD int lane_0(Int v) { return _mm_cvtsi128_si32(_mm512_castsi512_si128((__m512i)v)); }
CXR_HD int lane_15(Int v) { return _mm_extract_epi32(_mm512_extracti32x4_epi32((__m512i)v, 3), 3); }

// The smallest lane, of lanes in 0 .. 65535.
CXR_HD int least(Int v) {
  const __m256i words = _mm512_cvtepi32_epi16((__m512i)v);
  return _mm_extract_epi16(_mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1))), 0);
}

// Eight times 8 bytes, into a register that was cleared: what a gather leaves of its target, it waits for. Compilers see that it leaves
// nothing, and would not clear it.
CXR_HD __m512 gather(const float* p, __m256i index) {
  __m512d cleared = _mm512_setzero_pd();
  __mmask8 all;
  asm("" : "+v"(cleared));
  asm("kxnorb %0, %0, %0" : "=Yk"(all));
  return (__m512)_mm512_mask_i32gather_pd(cleared, all, index, p, 4);
}

// left[k] = p[index[k]], right[k] = p[index[k] + 1]: a gather of 8 bytes a lane brings both.
CXR_HD void pairs(const float* p, Int index, Vec& left, Vec& right) {
  const __m512 a = gather(p, _mm512_castsi512_si256((__m512i)index)), b = gather(p, _mm512_extracti64x4_epi64((__m512i)index, 1));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  left = (Vec)_mm512_permutex2var_ps(a, even, b);
  right = (Vec)_mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}

CXR_HD void pairs(const float* p, const int* index, Vec& left, Vec& right) { pairs(p, load<lanes>(index), left, right); }

// How a part of a row is read: by gathers; by shuffles of as few rows of a window as a vector needs, up to one that no window holds;
// or of all its rows, since how many are needed changes from vector to vector on a rough field, and a wrong guess of it costs more than
// they do, and by gathers where it does not hold a vector.
enum class By { gathers, few_rows, all_rows };

// A vector's place in a window of the image: `right` and `down` from the pixel `corner` of it. `holds`: all lanes read within its
// columns, which two registers take in, and its few rows. For gathers it is the whole image.
struct Window {
  static constexpr int columns = 2 * lanes, rows = 5;
  Vec fx, fy;
  Int right, down;
  long corner;
  bool holds;
};

// REACH: pixels that are read beyond (ix, iy). Where displacements are smooth, the topmost row is that of the first or of the last
// lane; elsewhere it is looked for.
template <By BY, int REACH> CXR_HD Window window_of(const Place& p, int width, int height) {
  if (BY == By::gathers) return {p.fx, p.fy, p.ix, p.iy, 0, false};
  constexpr bool rough = BY == By::all_rows;
  constexpr int slack = 4;  // the first lane is nearly always the leftmost
  const int first = lane_0(p.ix) - slack, last = width - Window::columns, bottom = height - Window::rows;
  const int from = first < 0 ? 0 : first, x = from < last ? from : last;
  const int top = rough ? least(p.iy) : lane_0(p.iy), other = rough ? bottom : lane_15(p.iy), y = top < other ? top : other;
  const Int right = p.ix - x, down = p.iy - y;
  const Mask beyond = exceeds(right, Window::columns - 1 - REACH) | exceeds(down, Window::rows - 1 - REACH);
  return {p.fx, p.fy, right, down, long(y) * width + x, beyond == 0};
}

// Pixels from its corner. Rows and width fit 16 bits, whose product takes half the time of one of 32.
CXR_HD Int index_of(const Window& w, int width) {
  return (Int)_mm512_madd_epi16((__m512i)w.down, _mm512_set1_epi32(width)) + w.right;
}

// Two registers of a row, loaded once: a compiler would rather load them again than copy a register.
struct Columns {
  __m512 low, high;
  CXR_HD explicit Columns(const float* p) : low(_mm512_loadu_ps(p)), high(_mm512_loadu_ps(p + lanes)) { asm("" : "+v"(low), "+v"(high)); }
  CXR_HD Vec operator[](Int column) const { return (Vec)_mm512_permutex2var_ps(low, (__m512i)column, high); }
};

// The values of N channels, each `plane` behind the one before.
template <int N> struct Values {
  Vec channel[N];
};

// A mode reads them by gathers, or by shuffles row after row from the top, where the lanes that a row is for keep what they find there.
struct Bilinear {
  static constexpr int reach = 1;

  template <int N> static CXR_HD Values<N> gathered(const float* image, int width, size_t plane, const Window& w) {
    const Int index = index_of(w, width);
    Values<N> v;
    for (int c = 0; c < N; ++c) {
      const float* corner = image + w.corner + c * plane;
      Vec left, right, low_left, low_right;
      pairs(corner, index, left, right);
      pairs(corner + width, index, low_left, low_right);
      v.channel[c] = mix(mix(left, right, w.fx), mix(low_left, low_right, w.fx), w.fy);
    }
    return v;
  }

  template <By BY, int N> static CXR_HD Values<N> shuffled(const float* image, int width, size_t plane, const Window& w) {
    const Int next = w.right + 1;
    const float* row = image + w.corner;
    const auto look = [&](int c) __attribute__((always_inline)) {
      const Columns columns(row + c * plane);
      return mix(columns[w.right], columns[next], w.fx);
    };
    Vec above[N], top[N], bottom[N];
    for (int c = 0; c < N; ++c) top[c] = look(c);
    row += width;
    for (int c = 0; c < N; ++c) above[c] = bottom[c] = look(c);
    Int down{};
    Mask done = equal(w.down, down);
    for (int rows = 2; BY == By::all_rows ? rows < Window::rows : done != 0xffff; ++rows) {
      down += 1, row += width;
      const Mask here = equal(w.down, down);
      for (int c = 0; c < N; ++c) {
        const Vec value = look(c);
        put(top[c], here, above[c]), put(bottom[c], here, value);
        above[c] = value;
      }
      done |= here;
    }
    Values<N> v;
    for (int c = 0; c < N; ++c) v.channel[c] = mix(top[c], bottom[c], w.fy);
    return v;
  }
};

struct Nearest {
  static constexpr int reach = 0;

  template <int N> static CXR_HD Values<N> gathered(const float* image, int width, size_t plane, const Window& w) {
    const __m512i index = (__m512i)index_of(w, width);
    Values<N> v;
    for (int c = 0; c < N; ++c) v.channel[c] = (Vec)_mm512_i32gather_ps(index, image + w.corner + c * plane, 4);
    return v;
  }

  template <By BY, int N> static CXR_HD Values<N> shuffled(const float* image, int width, size_t plane, const Window& w) {
    const float* row = image + w.corner;
    Values<N> v;
    for (int c = 0; c < N; ++c) v.channel[c] = Columns(row + c * plane)[w.right];
    Int down{};
    Mask done = equal(w.down, down);
    for (int rows = 1; BY == By::all_rows ? rows < Window::rows : done != 0xffff; ++rows) {
      down += 1, row += width;
      const Mask here = equal(w.down, down);
      for (int c = 0; c < N; ++c) put(v.channel[c], here, Columns(row + c * plane)[w.right]);
      done |= here;
    }
    return v;
  }
};

// The lines that the next rows need, since the hardware does not see rows coming in this pattern: of the image, four rows below what
// is read now; of the displacement and the result, two rows on. (One row less of each took 5 to 10 % longer, none at all twice as long.)
CXR_HD void fetch_ahead(const WarpRow<float>& a, size_t plane, long first, int x) {
  const long width = a.width;
  __builtin_prefetch(a.image + plane + 5 * width + first);
  __builtin_prefetch(a.out + plane + 2 * width + x, 1);
  if (plane == 0) __builtin_prefetch(a.ux + 2 * width + x), __builtin_prefetch(a.uy + 2 * width + x);
}

// read(x, place(x)) for the columns x = from, from + lanes .. last, until it returns false; the column where it did, or the next.
// Each vector is placed before the one in front of it is read, or (FAR) before the one in front of that: reading waits for addresses,
// and a core does not look far enough ahead to find those of the next meanwhile. FAR takes the registers that three channels need.
template <bool FAR, class Placed, class Read> CXR_HD int place_and_read(int from, int last, Placed place, Read read) {
  int x = from;
  auto here = place(x), next = here;
  if (FAR && x < last) next = place(x + lanes);
  for (; x + FAR * lanes < last; x += lanes) {
    const auto placed = place(x + (1 + FAR) * lanes);
    if (!read(x, here)) return x;
    here = FAR ? next : placed, next = placed;
  }
  for (; x <= last; x += lanes, here = next) {
    if (!read(x, here)) return x;
  }
  return x;
}

// The first N channels of a row's columns from .. last; of few rows, until a window does not hold a vector.
template <class Mode, bool ITK, bool AHEAD, By BY, int N> CXR_HD int warp_part(const WarpRow<float>& a, int from, int last) {
  Placing<ITK> placing(a, from);
  const auto place = [&](int x) __attribute__((always_inline)) {
    const Place p = Mode::reach ? placing.next(a.ux + x, a.uy + x) : placing.next_nearest(a.ux + x, a.uy + x);
    return window_of<BY, Mode::reach>(p, a.width, a.height);
  };
  const auto read = [&](int x, const Window& w) __attribute__((always_inline)) {
    if (BY == By::few_rows && !w.holds) return false;
    const long first = BY == By::gathers ? lane_0(index_of(w, a.width)) : w.corner;
    for (int c = 0; AHEAD && c < N; ++c) fetch_ahead(a, c * a.plane, first, x);
    const bool shuffle = BY == By::few_rows || (BY == By::all_rows && __builtin_expect(w.holds, true));
    const Values<N> v = shuffle ? Mode::template shuffled<BY, N>(a.image, a.width, a.plane, w)
                                : Mode::template gathered<N>(a.image, a.width, a.plane, w);
    for (int c = 0; c < N; ++c) store(a.out + c * a.plane + x, v.channel[c]);
    return true;
  };
  return place_and_read<BY == By::all_rows && N == 1>(from, last, place, read);
}

// Fields that a warp by itself (AHEAD) is given are smooth as a rule; where such a part ends, a ROUGH one follows for a while. Those
// between two iterations are not.
template <class Mode, bool ITK, bool AHEAD, By ROUGH, int N> CXR_HD void warp_block(const WarpRow<float>& a, int from, int count) {
  constexpr int stretch = 16 * lanes;
  constexpr bool windows = AHEAD || ROUGH == By::all_rows;
  const int last = from + (count - 1) * lanes;
  if (windows && (a.width < Window::columns || a.height < Window::rows)) {
    warp_part<Mode, ITK, AHEAD, By::gathers, N>(a, from, last);
    return;
  }
  for (int x = from; x <= last;) {
    if (AHEAD) x = warp_part<Mode, ITK, AHEAD, By::few_rows, N>(a, x, last);
    const int end = AHEAD && x + stretch < last ? x + stretch : last;
    if (x <= last) x = warp_part<Mode, ITK, AHEAD, ROUGH, N>(a, x, end);
  }
}

// Three channels at a time, or two, since they share where they read.
template <class Mode, bool ITK, bool AHEAD, By ROUGH> CXR_HD void warp_channels(WarpRow<float> a) {
  for (; a.channels >= 3; a.channels -= 3, a.image += 3 * a.plane, a.out += 3 * a.plane) {
    by_blocks(a, a.width, block, warp_block<Mode, ITK, AHEAD, ROUGH, 3>);
  }
  if (a.channels == 2) by_blocks(a, a.width, block, warp_block<Mode, ITK, AHEAD, ROUGH, 2>);
  if (a.channels == 1) by_blocks(a, a.width, block, warp_block<Mode, ITK, AHEAD, ROUGH, 1>);
}

template <bool ITK, bool AHEAD, By ROUGH = By::gathers> CXR_HD void warp_bilinear(const WarpRow<float>& a) {
  warp_channels<Bilinear, ITK, AHEAD, ROUGH>(a);
}
template <bool AHEAD, By ROUGH = By::gathers> CXR_HD void warp_nearest(const WarpRow<float>& a) {
  warp_channels<Nearest, false, AHEAD, ROUGH>(a);
}

}  // namespace
}  // namespace cxr
