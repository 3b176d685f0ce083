// Vectors without intrinsics: GCC's and Clang's own types. Arithmetic, comparisons and ?: work lane by lane; a comparison gives
// integers, with all bits set where it holds. One lane is a plain number, so that one source serves a row and its ends.
#pragma once

#include <cstring>

#include "math.h"

namespace cxr {
namespace {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

template <class T, int N> struct Lanes {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T> struct Lanes<T, 1> {
  using type = T;
};
template <class T, int N> using Vector = typename Lanes<T, N>::type;

template <int N, class T> CXR_HD Vector<T, N> load(const T* p) {
  Vector<T, N> v;
  std::memcpy(&v, p, sizeof v);  // one instruction, at any address
  return v;
}

template <class V, class T> CXR_HD void store(T* p, V v) { std::memcpy(p, &v, sizeof v); }

// sum += v where `on` holds: one masked instruction with AVX-512; elsewhere to clear v is shorter than to choose.
template <class V, class Where> CXR_HD void add_where(V& sum, Where on, V v) {
#ifdef __AVX512F__
  sum = on ? sum + v : sum;
#else
  sum += on ? v : V{};
#endif
}

// The sum of the lanes, halves first.
template <class T, int N> CXR_HD T total(Vector<T, N> v) {
  if constexpr (N == 1) {
    return v;
  } else {
    Vector<T, N / 2> half[2];
    std::memcpy(half, &v, sizeof v);
    return total<T, N / 2>(half[0] + half[1]);
  }
}

}  // namespace
}  // namespace cxr
