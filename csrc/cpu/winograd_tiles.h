// Winograd's transforms of a row of tiles, before and after the matrix products (Lavin & Gray 2015, arXiv 1509.09308, section 4.1).
// A 3 x 3 convolution of 4 x 4 pixels takes 144 multiplications for each pair of channels; this way it takes 36:
//
//   out = A^T [(G g G^T) * (B^T d B)] A,   d: the 6 x 6 pixels around the tile, * number by number, summed over channels
//
// Here are B^T d B and A^T m A; G g G^T is done once for all, and the 36 sums over channels are matrix products.
#pragma once

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"

namespace cxr {
namespace {

constexpr int tile_lanes = register_bytes / sizeof(float);
using TileVec = Vector<float, tile_lanes>;

// B^T of six numbers.
CXR_HD void to_points(const TileVec (&d)[6], TileVec (&out)[6]) {
  const TileVec odd = d[3] - 4.0f * d[1], even = d[4] - 4.0f * d[2];
  const TileVec twice = 2.0f * (d[3] - d[1]), across = d[4] - d[2];
  out[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = across + twice;
  out[4] = across - twice;
  out[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

// A^T of six numbers.
CXR_HD void from_points(const TileVec (&m)[6], TileVec (&out)[4]) {
  const TileVec near = m[1] + m[2], near_odd = m[1] - m[2], far = m[3] + m[4], far_odd = m[3] - m[4];
  out[0] = m[0] + near + far;
  out[1] = near_odd + 2.0f * far_odd;
  out[2] = near + 4.0f * far;
  out[3] = near_odd + 8.0f * far_odd + m[5];
}

// Pixels outside the image are 0.
inline void tiles_to_points(const TileRow& a) {
  for (int tile = 0; tile * 4 < a.width; ++tile) {
    for (int k = 0; k < a.channels; k += tile_lanes) {
      TileVec by_rows[6][6];  // [column][point]
      for (int column = 0; column < 6; ++column) {
        const int x = 4 * tile - 1 + column;
        TileVec d[6] = {};
        for (int row = 0; row < 6 && x >= 0 && x < a.width; ++row) {
          const int y = a.y - 1 + row;
          if (y >= 0 && y < a.height) d[row] = load<tile_lanes>(a.image + (size_t(y) * a.width + x) * a.channels + k);
        }
        to_points(d, by_rows[column]);
      }
      for (int row = 0; row < 6; ++row) {
        TileVec d[6], point[6];
        for (int column = 0; column < 6; ++column) d[column] = by_rows[column][row];
        to_points(d, point);
        for (int column = 0; column < 6; ++column)
          store(a.points + (row * 6 + column) * a.stride + size_t(tile) * a.channels + k, point[column]);
      }
    }
  }
}

inline void tiles_from_points(const TileRow& a) {
  for (int tile = 0; tile * 4 < a.width; ++tile) {
    for (int k = 0; k < a.channels; k += tile_lanes) {
      const TileVec bias = load<tile_lanes>(a.bias + k);
      TileVec by_rows[6][4];  // [column][row of the tile]
      for (int column = 0; column < 6; ++column) {
        TileVec m[6];
        for (int row = 0; row < 6; ++row)
          m[row] = load<tile_lanes>(a.points + (row * 6 + column) * a.stride + size_t(tile) * a.channels + k);
        from_points(m, by_rows[column]);
      }
      for (int row = 0; row < 4 && a.y + row < a.height; ++row) {
        TileVec m[6], out[4];
        for (int column = 0; column < 6; ++column) m[column] = by_rows[column][row];
        from_points(m, out);
        for (int column = 0; column < 4 && 4 * tile + column < a.width; ++column)
          store(a.image + (size_t(a.y + row) * a.width + 4 * tile + column) * a.channels + k, out[column] + bias);
      }
    }
  }
}

}  // namespace
}  // namespace cxr
