// Owns the headers that halfquad_add_test() has precompiled; nothing runs it.
int main() {}
