#ifndef A_H
#define A_H
#define A 3
#ifndef __ASSEMBLER__
struct pair {
    int first, second;
};
#endif
#endif
